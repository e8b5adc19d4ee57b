"""Champions that are real ONNX networks: each repeats the last value it sees, so every forecast is known beforehand.

Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tiny import EPOCH, SERIES

if TYPE_CHECKING:
    from forecast.config.dataset import DatasetConfig
    from forecast.evaluation.scores import Evidence
    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest


@pytest.fixture
def network() -> Callable[..., Path]:
    """Write an ONNX network with the inputs and the output that exported models have."""
    return _write_network


def _write_network(
    path: Path,
    *,
    lookback: int,
    horizon: int,
    targets: int,
    past: int,
    future: int,
    weight: float = 0.0,
    bias: float = 0.0,
) -> Path:
    """Write a network that repeats the last value, plus ``bias``, plus ``weight`` times each covariate input's mean."""
    import onnx
    from onnx import TensorProto, helper

    shapes = {
        "past_target": ("B", lookback, targets),
        "past_covariates": ("B", lookback, past),
        "historic_future_covariates": ("B", lookback, future),
        "future_covariates": ("B", horizon, future),
    }
    shapes = {name: shape for name, shape in shapes.items() if shape[2]}
    constants = {
        "last": [-1],
        "end": [2**31 - 1],
        "steps": [1],
        "all": [1, 2],
        "features": [2],
        "repeats": [1, horizon, 1],
        "level": [3],
    }
    initializers = [
        helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in constants.items()
    ]
    initializers += [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("weight", weight), ("bias", bias))
    ]
    nodes = [
        helper.make_node("Slice", ["past_target", "last", "end", "steps"], ["newest"]),
        helper.make_node("Tile", ["newest", "repeats"], ["repeated"]),
        helper.make_node("Add", ["repeated", "bias"], ["sum_0"]),
    ]
    for number, name in enumerate(list(shapes)[1:]):
        axes = "features" if name == "future_covariates" else "all"
        nodes += [
            helper.make_node("ReduceMean", [name, axes], [f"mean_{number}"], keepdims=1),
            helper.make_node("Mul", [f"mean_{number}", "weight"], [f"part_{number}"]),
            helper.make_node("Add", [f"sum_{number}", f"part_{number}"], [f"sum_{number + 1}"]),
        ]
    nodes.append(helper.make_node("Unsqueeze", [f"sum_{len(shapes) - 1}", "level"], ["prediction"]))
    graph = helper.make_graph(
        nodes,
        "repeat-last",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ("B", horizon, targets, 1))],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))
    return path


@pytest.fixture
def store_model(tmp_path: Path) -> Callable[..., Manifest]:
    """Store a repeat-last model for a job as a folder, with a golden example, as training does."""
    import numpy as np

    from forecast.runtime.calibration import Calibration
    from forecast.runtime.manifest import Manifest, store
    from forecast.runtime.model import ServedModel, session
    from forecast.runtime.scaler import Scaler
    from pipelines.preparation.features import future_names

    def make(folder: Path, config: DatasetConfig, series: Sequence[str] = SERIES, **changes: Any) -> Manifest:
        weight, bias = changes.pop("weight", 0.0), changes.pop("bias", 0.0)
        targets, past = len(config.targets), len(config.past_covariates)
        features = len(changes.get("future", future_names(config)))
        file = _write_network(
            tmp_path / "networks" / f"{folder.name}.onnx",
            lookback=config.lookback,
            horizon=config.horizon,
            targets=targets,
            past=past,
            future=features,
            weight=weight,
            bias=bias,
        )
        moments = dict.fromkeys(series, ((40.0,) * targets, (10.0,) * targets))
        past_moments = dict.fromkeys(series, ((5.0,) * past, (2.0,) * past))
        known = len(config.future_covariates)
        known_moments = dict.fromkeys(series, ((5.0,) * known, (2.0,) * known)) if known else {}
        manifest = {
            "dataset": "tiny",
            "model_name": "repeat_last",
            "model_version": folder.name,
            "trained_at": EPOCH,
            "lookback": config.lookback,
            "horizon": config.horizon,
            "step_seconds": config.step.total_seconds(),
            "targets": config.targets,
            "past": config.past_covariates,
            "future": future_names(config),
            "quantiles": config.quantiles,
            "lower": tuple(config.channels[name].lower for name in config.targets),
            "upper": tuple(config.channels[name].upper for name in config.targets),
            "scaler": Scaler(targets=moments, past=past_moments, future=known_moments),
            "calibration": Calibration.none(targets, len(config.quantiles), config.horizon),
            "data_version": 0,
            "data_digest": "",
            "fitted_until": EPOCH,
        } | changes
        raw = ServedModel(Manifest(**manifest, network_digest="", golden_digest=""), session(file, threads=1))
        random = np.random.default_rng(1)
        windows = (
            random.normal(40, 10, (2, config.lookback, targets)),
            random.normal(5, 2, (2, config.lookback, past)),
            random.uniform(-1, 1, (2, config.lookback + config.horizon, features)),
        )
        names = [series[0], series[-1]]
        expected = raw.scaled_quantiles(*windows, names)
        golden = dict(zip(("targets", "past", "future"), windows, strict=True)) | {
            "series": np.asarray(names),
            "expected": expected,
        }
        return store(folder, file, golden, manifest)

    return make


@pytest.fixture
def crown(store_model: Callable[..., Manifest]) -> Callable[..., Manifest]:
    """Store a repeat-last model in a home and make it the champion of its data set."""
    from forecast.ledger.champions import Champion
    from forecast.runtime.manifest import manifest_digest

    def make(
        installation: Installation, version: str = "repeat_last-1", dataset: str = "tiny", **changes: Any
    ) -> Manifest:
        config = installation.config.datasets[dataset]
        manifest = store_model(installation.home.models / version, config, dataset=dataset, **changes)
        digest = manifest_digest(installation.home.models / version)
        installation.ledger.champions.promote(
            Champion(dataset, manifest.model_name, version, version, digest, EPOCH, "crowned by a test")
        )
        return manifest

    return make


@pytest.fixture
def make_evidence() -> Callable[..., Evidence]:
    """Make evidence by scoring forecasts that are off by ``error`` deviations, on 200 origins an hour apart."""
    import numpy as np

    from forecast.evaluation.scores import Backtest, score
    from forecast.runtime.smoke_test import SmokeTest

    def make(
        version: str = "v1",
        error: float = 1.0,
        *,
        noise: float = 0.3,
        seed: int = 0,
        width: float = 2.2,
        origins: int = 200,
        horizons: Sequence[int] = (2, 4),
        channels: Mapping[str, float] | None = None,
        digest: str = "same",
        **tested: Any,
    ) -> Evidence:
        random = np.random.default_rng(seed)
        factors = np.asarray(list((channels or {"load": 1.0, "price": 1.0}).values()))
        shape = (origins, horizons[-1], len(factors))
        actual = np.random.default_rng(1).normal(size=shape)
        median = actual + factors * error * (1 + noise * random.normal(size=(origins, 1, 1)))
        half = width * error * factors
        result = Backtest(
            origins=tuple(EPOCH + timedelta(hours=hour) for hour in range(origins)),
            series=("east",) * origins,
            actual=actual,
            mean=median,
            quantiles=np.stack([median - half, median, median + half], axis=-1),
            levels=(0.1, 0.5, 0.9),
            deviations=np.ones((origins, len(factors))),
            naive_errors=np.ones((origins, len(factors))),
        )
        seen: dict[str, Any] = {"latency_ms": 1.0, "size_mb": 1.0, "not_finite_on": (), "onnx_difference": 1e-6}
        return score(
            version.partition("-")[0], version, digest, result, tuple(channels or ("load", "price")), tuple(horizons),
            SmokeTest(**seen | tested),
        )  # fmt: skip

    return make
