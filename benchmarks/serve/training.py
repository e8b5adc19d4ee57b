"""An endless training with the process priority of a worker.

``python -m benchmarks.serve.training HOME``
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.serve.home import DATASETS


def main() -> None:
    """Train repeatedly; prints a line when the first training begins."""
    from forecast.installation import Installation
    from forecast.scheduling.worker_host import TRAINING_NICENESS
    from pipelines.preparation.clean import clean
    from pipelines.preparation.darts_series import fit_scaler
    from pipelines.preparation.slices import Slices
    from pipelines.training.fit import fit

    os.nice(TRAINING_NICENESS)
    installation = Installation.open(Path(sys.argv[1]))
    config = installation.config.datasets[DATASETS[0]]
    panel = clean(installation.dataset(DATASETS[0]).observations.read(), config)
    slices = Slices.of(panel, config)
    scaler = fit_scaler(panel, config, slices.fit)
    sys.stdout.write("training\n")
    sys.stdout.flush()
    while True:
        fit(config, panel, slices, scaler, "itransformer")


if __name__ == "__main__":
    main()
