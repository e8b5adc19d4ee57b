"""The path of plotly's JavaScript, which comes inside its Python package."""

from __future__ import annotations

from pathlib import Path

import plotly

FILE = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
MAP_STYLE = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53"
"""Id of the style element that plotly's script adds for maps unless an element of this id exists.

The pages have no maps, and their content security policy forbids inline styles.
The script element itself gets the id."""
