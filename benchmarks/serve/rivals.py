"""Reference servers: bare routes, and darts called once per request.

``python -m benchmarks.serve.rivals bare PORT ANSWER`` and ``... darts PORT``; ``ANSWER`` is the file of the response
body.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Response

from api.answers.on_demand import OnDemandRequest
from benchmarks.serve.home import CHANNELS, STEPS

LEVELS = (0.1, 0.5, 0.9)


def bare(answer: bytes) -> FastAPI:
    """Return routes without work: one sends the same bytes, one reads the same body."""
    app = FastAPI()

    @app.get("/answer")
    async def tell() -> Response:
        return Response(answer, media_type="application/json")

    @app.post("/parse")
    async def parse(body: OnDemandRequest) -> dict[str, int]:
        return {"series": len(body.history.series) if body.history else 0}

    return app


def darts() -> FastAPI:
    """Return a route that calls ``predict`` of a darts model with the same network, trained briefly."""
    model, past = trained()
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: OnDemandRequest) -> dict[str, Any]:
        series = body.history.series["bench"] if body.history else {}
        return {"forecast": forecast(model, past(np.asarray([series[name] for name in CHANNELS]).T)).tolist()}

    return app


def trained() -> tuple[Any, Callable[[Any], Any]]:
    """Return an iTransformer as a darts model, and a function from a look-back [L, C] to a series."""
    import pandas as pd
    import torch
    from darts import TimeSeries

    from models import CATALOG, BuildRequest, ModelName

    torch.set_num_threads(1)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    request = BuildRequest(
        lookback=STEPS, horizon=STEPS, quantiles=LEVELS, max_epochs=1, batch_size=32,
        trainer=quiet | {"enable_checkpointing": False},
    )  # fmt: skip
    model = CATALOG[ModelName("itransformer")].build(request)

    def made(values: Any) -> Any:
        index = pd.date_range("2024-01-01", periods=len(values), freq="h")
        return TimeSeries.from_times_and_values(index, values.astype(np.float32), columns=list(CHANNELS))

    model.fit(made(np.random.default_rng(0).normal(50, 10, (400, len(CHANNELS)))), verbose=False)
    return model, made


def forecast(model: Any, past: Any) -> Any:
    """Return [H, C * Q]."""
    made = model.predict(STEPS, series=past, verbose=False, predict_likelihood_parameters=True, num_samples=1)
    return made.values()


def main() -> None:
    """Serve one of the references with uvicorn's fastest settings, without a log."""
    name, port = sys.argv[1], int(sys.argv[2])
    app = darts() if name == "darts" else bare(Path(sys.argv[3]).read_bytes())

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
