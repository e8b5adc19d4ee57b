import contextlib
import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError, NotFoundError, StorageError
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import GOLDEN, MANIFEST, NETWORK, Manifest, sha256
from forecast.runtime.model import load

START = datetime(2024, 1, 1, tzinfo=UTC)
NAN = float("nan")
MakeModel = Callable[..., Manifest]
MakeWindows = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


# --- prediction -------------------------------------------------------------------------------------------------------


@pytest.fixture
def windows(tiny_config: DatasetConfig) -> MakeWindows:
    def make(count: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        lookback, horizon = tiny_config.lookback, tiny_config.horizon
        return (
            random.normal(40, 10, (count, lookback, 2)),
            random.normal(5, 2, (count, lookback, 1)),
            random.uniform(-1, 1, (count, lookback + horizon, 8)),
        )

    return make


def test_a_loaded_model_forecasts_in_original_units(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, windows: MakeWindows
) -> None:
    store_model(tmp_path / "m", tiny_config)
    model = load(tmp_path / "m")
    targets, past, future = windows()
    prediction = model.predict(targets, past, future, ["east", "west"])
    assert prediction.mean.shape == (2, 24, 2)
    assert prediction.quantiles.shape == (2, 24, 2, 3)
    assert np.allclose(prediction.mean, targets[:, -1:], atol=1e-4)
    assert np.allclose(prediction.quantiles, targets[:, -1:, :, None], atol=1e-4)


def test_a_batch_of_many_windows_is_forecast_like_each_of_them_alone(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, windows: MakeWindows
) -> None:
    store_model(tmp_path / "m", tiny_config, weight=0.5)
    model = load(tmp_path / "m")
    targets, past, future = windows(600)
    together = model.predict(targets, past, future, ["east"] * 600)
    for place in (0, 255, 256, 599):
        part = slice(place, place + 1)
        alone = model.predict(targets[part], past[part], future[part], ["east"])
        assert np.allclose(together.quantiles[part], alone.quantiles, atol=1e-4)


def test_no_forecast_leaves_the_bounds(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, windows: MakeWindows
) -> None:
    wide = Calibration(group=24, quantile_offsets=(((-50.0, 0.0, 50.0),) * 2,), mean_offsets=((-50.0, 50.0),))
    store_model(tmp_path / "m", tiny_config, calibration=wide, lower=(0.0, None), upper=(None, 45.0))
    prediction = load(tmp_path / "m").predict(*windows(), ["east", "west"])
    assert prediction.mean[..., 0].min() == prediction.quantiles[..., 0, :].min() == 0.0
    assert prediction.mean[..., 1].max() == prediction.quantiles[..., 1, :].max() == 45.0
    assert prediction.quantiles[..., 0, :].max() > 45.0
    assert (np.diff(prediction.quantiles, axis=-1) >= 0).all()


def test_a_series_that_the_model_never_saw_is_reported(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, windows: MakeWindows
) -> None:
    store_model(tmp_path / "m", tiny_config)
    with pytest.raises(DataError, match='not trained on series "north"') as caught:
        load(tmp_path / "m").predict(*windows(), ["east", "north"])
    assert caught.value.code == "forecast.unknown_series"


@pytest.mark.parametrize("bad", [NAN, float("inf"), 1e300])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_window_that_is_not_finite_is_refused(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, windows: MakeWindows, bad: float, place: int
) -> None:
    store_model(tmp_path / "m", tiny_config)
    inputs = windows()
    inputs[place][0, 3, 0] = bad
    with np.errstate(over="ignore"), pytest.raises(DataError) as caught:
        load(tmp_path / "m").predict(*inputs, ["east", "west"])
    assert caught.value.code == "forecast.not_finite"


@pytest.mark.parametrize("bias", [NAN, float("inf")])
def test_a_network_whose_answer_is_not_finite_is_refused(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, bias: float
) -> None:
    with pytest.raises(DataError) as caught:
        store_model(tmp_path / "m", tiny_config, bias=bias)
    assert caught.value.code == "forecast.not_finite"


def test_a_data_set_without_past_covariates_is_forecast_too(
    tmp_path: Path, config_with: Callable[..., DatasetConfig], store_model: MakeModel, windows: MakeWindows
) -> None:
    store_model(tmp_path / "m", config_with(channels={"load": {"role": "target"}}))
    targets, past, future = windows()
    prediction = load(tmp_path / "m").predict(targets[..., :1], past[..., :0], future, ["east", "west"])
    assert prediction.quantiles.shape == (2, 24, 1, 3)


# --- storing and loading ----------------------------------------------------------------------------------------------


def test_a_model_is_loaded_as_it_was_stored(tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel) -> None:
    manifest = store_model(tmp_path / "m", tiny_config)
    assert load(tmp_path / "m").manifest == manifest
    assert manifest.network_digest == sha256(tmp_path / "m" / NETWORK)
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == sorted([NETWORK, MANIFEST, GOLDEN])


def test_a_folder_without_a_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no model"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", [NETWORK, GOLDEN])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_one_flipped_bit_is_noticed(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, name: str, share: float
) -> None:
    store_model(tmp_path / "m", tiny_config)
    content = bytearray((tmp_path / "m" / name).read_bytes())
    content[int(share * len(content))] ^= 1
    (tmp_path / "m" / name).write_bytes(content)
    with pytest.raises(StorageError, match="is not the file that was exported") as caught:
        load(tmp_path / "m")
    assert caught.value.code == "model.corrupt"


@pytest.mark.parametrize("name", [NETWORK, GOLDEN])
def test_a_missing_file_of_a_model_is_reported(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, name: str
) -> None:
    store_model(tmp_path / "m", tiny_config)
    (tmp_path / "m" / name).unlink()
    with pytest.raises(StorageError, match="cannot read"):
        load(tmp_path / "m")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1, 2]"])
def test_a_malformed_manifest_is_reported(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, content: bytes
) -> None:
    store_model(tmp_path / "m", tiny_config)
    (tmp_path / "m" / MANIFEST).write_bytes(content)
    with pytest.raises(StorageError) as caught:
        load(tmp_path / "m")
    assert caught.value.code == "model.corrupt"


def test_a_manifest_of_a_format_to_come_is_refused(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel
) -> None:
    store_model(tmp_path / "m", tiny_config)
    file = tmp_path / "m" / MANIFEST
    file.write_text(file.read_text(encoding="utf-8").replace('"format":1', '"format":2'), encoding="utf-8")
    with pytest.raises(StorageError):
        load(tmp_path / "m")


def test_a_model_that_answers_differently_from_its_golden_example_is_refused(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel
) -> None:
    manifest = store_model(tmp_path / "m", tiny_config)
    golden_file, manifest_file = tmp_path / "m" / GOLDEN, tmp_path / "m" / MANIFEST
    with np.load(golden_file) as stored:
        golden = {name: stored[name] for name in stored}
    golden["expected"] = golden["expected"] + 0.01
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    golden_file.write_bytes(buffer.getvalue())
    text = manifest_file.read_text(encoding="utf-8").replace(manifest.golden_digest, sha256(golden_file))
    manifest_file.write_text(text, encoding="utf-8")
    with pytest.raises(StorageError) as caught:
        load(tmp_path / "m")
    assert caught.value.code == "model.golden_differs"


def test_a_model_that_cannot_be_written_is_reported_and_leaves_nothing(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel
) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(StorageError) as caught:
        store_model(tmp_path / "models" / "m", tiny_config)
    assert caught.value.code == "model.not_stored"


@pytest.mark.parametrize("step", ["shutil.copyfile", "numpy.savez", "os.fsync", "pathlib.Path.rename"])
def test_a_model_is_stored_whole_or_not_at_all(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(step, full_disk)
        with pytest.raises(StorageError, match="No space left"):
            store_model(tmp_path / "models" / "m", tiny_config)
    assert list((tmp_path / "models").iterdir()) == []


def test_storing_a_model_a_second_time_never_takes_the_first_one_away(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_model(tmp_path / "models" / "m", tiny_config)

    def die(*_: object) -> None:
        raise KeyboardInterrupt  # as near to kill -9 as one gets within a process

    with monkeypatch.context() as dying:
        dying.setattr(Path, "rename", die)
        with contextlib.suppress(KeyboardInterrupt, StorageError):
            store_model(tmp_path / "models" / "m", tiny_config)
    assert load(tmp_path / "models" / "m").manifest.model_version == "m"


def test_a_stored_model_and_its_folder_are_on_disk(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store_model(tmp_path / "models" / "m", tiny_config)
    assert {NETWORK, MANIFEST, GOLDEN} <= set(synced)
    assert synced[-1] == "models", "the folder that names the new model must be flushed after the rename"
