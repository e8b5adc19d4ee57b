"""Load many folders in one process with the limits of a first load.

``python -m benchmarks.hostile.trial SOUND SECONDS`` reads one folder per line and prints outcomes as lines of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.hostile.sound import SERIES, windows
from forecast.errors import ForecastError
from forecast.runtime.model import Prediction, ServedModel, load
from forecast.runtime.sandbox import limit, own_output

HELD_OUT = 16
_TOLERANCE = 1e-2
"""In original units, with deviations of 10; the golden example tolerates a tenth of it."""


def main() -> None:
    """Print the outcome of each folder."""
    limit(int(sys.argv[2]))
    output = own_output()
    usual = _forecast(load(Path(sys.argv[1])))
    for line in sys.stdin:
        output.write(json.dumps(_tried(Path(line.rstrip("\n")), usual)) + "\n")
        output.flush()


def _tried(folder: Path, usual: Prediction) -> tuple[str, str]:
    try:
        with np.errstate(all="ignore"):
            model = load(folder)
    except ForecastError as error:
        return "refused", error.code
    except Exception as error:  # noqa: BLE001 - any other exception is a failure
        return "raised", repr(error)
    try:
        with np.errstate(all="ignore"):
            made = _forecast(model)
    except ForecastError as error:
        return "refused", f"{error.code} of a forecast"
    except Exception as error:  # noqa: BLE001 - any other exception is a failure
        return "raised", f"{error!r} of a forecast"
    if not all(np.isfinite(values).all() for values in (made.mean, made.quantiles)):
        return "raised", "a forecast that is not finite"
    return "loaded", "same" if _is_same(made, usual) else "other"


def _forecast(model: ServedModel) -> Prediction:
    names = [SERIES[number % len(SERIES)] for number in range(HELD_OUT)]
    targets, past, future = windows(HELD_OUT, seed=2)
    steps, ahead = model.manifest.lookback, model.manifest.horizon  # the service cuts windows by it
    if (targets.shape[1], future.shape[1]) != (steps, steps + ahead):
        targets, past = (np.resize(values, (HELD_OUT, steps, values.shape[2])) for values in (targets, past))
        future = np.resize(future, (HELD_OUT, steps + ahead, future.shape[2]))
    return model.predict(targets, past, future, names)


def _is_same(one: Prediction, other: Prediction) -> bool:
    pairs = ((one.mean, other.mean), (one.quantiles, other.quantiles))
    return all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=_TOLERANCE) for a, b in pairs)


if __name__ == "__main__":
    main()
