"""neuralforecast's iTransformer, trained by its own `fit`; run by the Python of `neuralforecast.txt`."""

import json
import logging
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MSE
from neuralforecast.models import iTransformer

from benchmarks.models.paced_training import PacedTraining


def main() -> None:
    """Train on random hours until the last block has ended; the sizes come as JSON."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    sizes: dict[str, Any] = json.loads(sys.argv[1])
    model = iTransformer(
        h=sizes["horizon"],
        input_size=sizes["lookback"],
        n_series=sizes["channels"],
        hidden_size=sizes["width"],
        n_heads=sizes["heads"],
        e_layers=sizes["layers"],
        d_ff=sizes["feed_forward"],
        dropout=sizes["dropout"],
        loss=MSE(),
        max_steps=1_000_000,
        windows_batch_size=sizes["batch"],  # a window holds all series
        early_stop_patience_steps=-1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        accelerator="cpu",
        callbacks=[PacedTraining(sizes["steps"])],
    )
    values = np.random.default_rng(0).standard_normal((sizes["channels"], sizes["rows"]), dtype=np.float32)
    hours = pd.date_range("2016-07-01", periods=sizes["rows"], freq="h")
    table = pd.concat(pd.DataFrame({"unique_id": str(i), "ds": hours, "y": row}) for i, row in enumerate(values))
    NeuralForecast(models=[model], freq="h").fit(table)


if __name__ == "__main__":
    main()
