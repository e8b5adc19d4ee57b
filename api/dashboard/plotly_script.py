"""plotly's own script, out of its Python package."""

from __future__ import annotations

from pathlib import Path

import plotly

FILE = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
MAP_STYLE = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53"
"""Id of the style element that the script adds for maps, unless there is an element of that id: there are no maps here,
and the pages' policy lets no style into them."""
