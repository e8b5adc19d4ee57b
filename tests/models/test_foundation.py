"""Foundation models: errors without weights, and forecasts with small ones."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from darts.models.components.timesfm2p5_submodels import _ResidualBlockConfig, _StackedTransformersConfig
from darts.models.forecasting.timesfm2p5_model import _TimesFM2p5Module
from huggingface_hub import constants
from safetensors.torch import save_file

from models import CATALOG, TRAINABLE, BuildRequest, ModelError, ModelName, export_onnx
from models.foundation import Chronos2Module, TiRexModule

LOOKBACK, HORIZON, TARGETS = 26, 8, 3
WITH_COVARIATES = {ModelName.CHRONOS_2: True, ModelName.TIMESFM_2_5: False}
TIMESFM_REVISION = "1d952420fba87f3c6dee4f240de0f1a0fbc790e3"
small = pytest.mark.parametrize("name", WITH_COVARIATES)


def build(name: ModelName, options: dict[str, Any], **changes: Any) -> Any:
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    request = {"lookback": LOOKBACK, "horizon": HORIZON, "trainer": trainer, **changes}
    return CATALOG[name].build(BuildRequest(options=options, **request))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache; any look-up of an address fails the test."""

    def refuse(*address: object, **kwargs: object) -> None:
        raise AssertionError(f"asked the network for {address}, {kwargs}")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[ModelName], str]:
    """Write random weights of a small network of a model's kind, and give their folder."""

    def write(name: ModelName) -> str:
        torch.manual_seed(3)
        windows = {"input_chunk_length": LOOKBACK, "output_chunk_length": HORIZON}
        config: dict[str, Any] = {}
        if name is ModelName.CHRONOS_2:
            config = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
            config["chronos_config"] = {
                "context_length": 64, "time_encoding_scale": 64, "max_output_patches": 4, "use_reg_token": True,
                "input_patch_size": 4, "input_patch_stride": 4, "output_patch_size": 4, "use_arcsinh": True,
                "quantiles": [0.1, 0.3, 0.5, 0.7, 0.9],
            }  # fmt: skip
            network = Chronos2Module(**config, **windows)
        else:
            full = _TimesFM2p5Module.config
            layer = replace(full.stacked_transformers.transformer, model_dims=16, hidden_dims=16, num_heads=2)
            sizes = {"tokenizer": (64, 16), "output_projection_point": (16, 1280)}
            sizes["output_projection_quantiles"] = (16, 10240)
            blocks = {
                part: _ResidualBlockConfig(inputs, 16, outputs, use_bias=part == "tokenizer", activation="swish")
                for part, (inputs, outputs) in sizes.items()
            }
            stacked = _StackedTransformersConfig(num_layers=1, transformer=layer)
            # darts takes the sizes from the class and not from the file
            monkeypatch.setattr(_TimesFM2p5Module, "config", replace(full, stacked_transformers=stacked, **blocks))
            network = _TimesFM2p5Module(**windows)
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return write


def test_foundation_models_are_the_ones_that_are_not_trained() -> None:
    assert [name for name, spec in CATALOG.items() if spec.family == "foundation"] == [
        name for name in ModelName if name not in TRAINABLE
    ]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (ModelName.CHRONOS_2, "hf download amazon/chronos-2 config.json model.safetensors"),
        (
            ModelName.TIMESFM_2_5,
            f"hf download google/timesfm-2.5-200m-pytorch config.json model.safetensors --revision {TIMESFM_REVISION}",
        ),
    ],
)
def test_the_error_for_absent_weights_names_the_command_that_downloads_them(name: ModelName, command: str) -> None:
    with pytest.raises(ModelError, match="or set the option local_dir") as caught:
        build(name, {})
    assert caught.value.code == "model.weights_absent"
    assert f'run "{command}"' in str(caught.value)


@small
def test_the_error_for_a_folder_without_weights_names_the_folder(name: ModelName, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"--local-dir {tmp_path}") as caught:
        build(name, {"local_dir": str(tmp_path)})
    assert caught.value.code == "model.weights_absent"


def test_an_invalid_name_of_a_hub_model_is_refused() -> None:
    with pytest.raises(ModelError, match="hub_model_name") as caught:
        build(ModelName.CHRONOS_2, {"hub_model_name": "a/b/c"})
    assert caught.value.code == "model.option_out_of_range"


def test_weights_in_the_cache_are_found_without_the_network(
    weights: Callable[[ModelName], str], monkeypatch: pytest.MonkeyPatch, panel: Any, tmp_path: Path
) -> None:
    source = Path(weights(ModelName.CHRONOS_2))
    repository = tmp_path / "cache" / "models--someone--small"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (source / file).rename(snapshot / file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = build(ModelName.CHRONOS_2, {"hub_model_name": "someone/small"}).fit(panel.series, verbose=False)
    assert model.model is not None


def test_tirex_says_what_stands_in_its_way() -> None:
    with pytest.raises(ModelError) as caught:
        build(ModelName.TIREX, {})
    installed = find_spec("tirex") is not None
    assert caught.value.code == ("model.option_out_of_range" if installed else "model.package_absent")
    assert ("LICENSE" if installed else 'run "pip install tirex-ts"') in str(caught.value)


def test_tirex_refuses_to_be_exported() -> None:
    with pytest.raises(ModelError, match="serve another model") as caught:
        TiRexModule._onnx_wrapper(cast("TiRexModule", None), None)  # not installed: nothing to build one from
    assert caught.value.code == "model.not_exportable"


@small
def test_a_zero_shot_forecast_needs_no_training(
    name: ModelName, weights: Callable[[ModelName], str], panel: Any, forecast: Callable[..., np.ndarray]
) -> None:
    model = build(name, {"local_dir": weights(name)})
    before = torch.random.get_rng_state()
    model.fit(panel.series, **panel.covariates, verbose=False)
    values = forecast(model, panel)
    assert values.shape == (2, HORIZON, TARGETS * 3)
    assert np.isfinite(values).all()
    assert model.epochs_trained == 0
    assert torch.equal(before, torch.random.get_rng_state())


@small
def test_only_chronos_reads_covariates(
    name: ModelName, weights: Callable[[ModelName], str], panel: Any, forecast: Callable[..., np.ndarray]
) -> None:
    model = build(name, {"local_dir": weights(name)}).fit(panel.series, **panel.covariates, verbose=False)
    raised = [series + 1 if index else series * 3 for index, series in enumerate(panel.future_covariates)]
    other = replace(panel, future_covariates=raised)
    assert np.array_equal(forecast(model, panel), forecast(model, other)) != WITH_COVARIATES[name]


@small
def test_a_saved_foundation_model_forecasts_the_same_without_the_folder(
    name: ModelName,
    weights: Callable[[ModelName], str],
    panel: Any,
    forecast: Callable[..., np.ndarray],
    tmp_path: Path,
) -> None:
    folder = Path(weights(name))
    model = build(name, {"local_dir": str(folder)}).fit(panel.series, **panel.covariates, verbose=False)
    model.save(str(tmp_path / "model.pt"), clean=True)
    (folder / "model.safetensors").unlink()
    loaded = type(model).load(str(tmp_path / "model.pt"), pl_trainer_kwargs={"accelerator": "cpu"})
    # not to the bit: weights mapped from a file lie at other addresses, which changes the order of sums
    np.testing.assert_allclose(forecast(loaded, panel), forecast(model, panel), atol=1e-6)


@pytest.mark.slow
@small
def test_foundation_models_can_be_served(
    name: ModelName, weights: Callable[[ModelName], str], panel: Any, tmp_path: Path
) -> None:
    model = build(name, {"local_dir": weights(name)}).fit(panel.series, **panel.covariates, verbose=False)
    signature = export_onnx(model, tmp_path / "model.onnx")
    assert signature.output.shape == (None, HORIZON, TARGETS, 3)
    assert signature.parameters == ("q0.100", "q0.500", "q0.900")


@small
@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"quantiles": (0.123, 0.5, 0.877)}, "quantiles"),
        ({"lookback": 20_000}, "context_length"),
        ({"horizon": 1025}, "maximum prediction length"),
    ],
)
def test_what_was_not_pretrained_is_refused(
    name: ModelName, changes: dict[str, Any], fact: str, weights: Callable[[ModelName], str]
) -> None:
    with pytest.raises(ModelError, match=fact) as caught:
        build(name, {"local_dir": weights(name)}, **changes)
    assert caught.value.code == "model.beyond_pretraining"


def test_timesfm_reaches_beyond_128_steps(weights: Callable[[ModelName], str], panel: Any) -> None:
    model = build(ModelName.TIMESFM_2_5, {"local_dir": weights(ModelName.TIMESFM_2_5)}, horizon=130)
    forecast = model.fit(panel.series, verbose=False).predict(130, panel.series[0], verbose=False)
    assert forecast.values().shape == (130, TARGETS)


@small
def test_damaged_weights_are_refused(name: ModelName, weights: Callable[[ModelName], str], panel: Any) -> None:
    folder = Path(weights(name))
    (folder / "model.safetensors").write_bytes(b"not weights")
    model = build(name, {"local_dir": str(folder)})
    with pytest.raises(ModelError, match="download them again") as caught:
        model.fit(panel.series, verbose=False)
    assert caught.value.code == "model.weights_unreadable"


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_damaged_config_is_refused(content: str, weights: Callable[[ModelName], str]) -> None:
    folder = Path(weights(ModelName.CHRONOS_2))
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        build(ModelName.CHRONOS_2, {"local_dir": str(folder)})
    assert caught.value.code == "model.weights_unreadable"
