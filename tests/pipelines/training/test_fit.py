import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch

from forecast.config.dataset import DatasetConfig
from forecast.errors import ConfigError, StorageError, TrainingError
from forecast.panel import Panel
from forecast.progress import Step
from models.catalog import ModelName
from models.darts.export import export_onnx
from pipelines.preparation.darts_series import fit_scaler
from pipelines.preparation.slices import Slices
from pipelines.training.checkpoints import save_weights
from pipelines.training.fit import Fitted, check_models, fit

MakeJob = Callable[..., DatasetConfig]
MakePanel = Callable[..., Panel]
Fit = Callable[..., Fitted]

SMALL = {"width": 16, "feed_forward": 16, "heads": 2, "dropout": 0.1}
OPTIONS = {"itransformer": SMALL, "s_mamba": {"width": 16, "feed_forward": 16}}
TRAINING = {"max_epochs": 3, "stride": 8, "batch_size": 32}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def run(config_with: MakeJob, tiny_panel: MakePanel) -> Fit:
    """Fit a model on the tiny data set; ``options`` are the model's, ``training`` the job's."""

    def make(
        name: str,
        *,
        options: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        change: Callable[[Panel], Panel] = lambda panel: panel,
        **given: Any,
    ) -> Fitted:
        chosen = options if options is not None else OPTIONS.get(name, {})
        config = config_with(models=[name], options={name: chosen}, training=TRAINING | (training or {}))
        panel = change(tiny_panel(config))
        slices = Slices.of(panel, config)
        return fit(config, panel, slices, fit_scaler(panel, config, slices.fit), name, **given)

    return make


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = fitted.model.model.state_dict()
    return state


def is_same(one: Fitted, other: Fitted) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Stopped(Exception):  # noqa: N818  # not an error of the training
    """The training is stopped as if its process died."""


class StopAt(lightning.Callback):
    """Stops a training before an epoch's first batch, or when all its epochs are over."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        del pl_module, batch, batch_idx
        if trainer.current_epoch == self.epoch:
            raise Stopped

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        del trainer, pl_module
        if self.epoch is None:
            raise Stopped


class Batches(lightning.Callback):
    """Counts the training steps of this process."""

    count = 0

    def on_train_batch_end(self, *_: Any) -> None:
        type(self).count += 1


# --- resuming ---------------------------------------------------------------------------------------------------------


KILLED = """
import os, pickle, signal, sys
import pytorch_lightning as lightning
from pathlib import Path
from pipelines.training.fit import fit

class Kill(lightning.Callback):
    def on_train_batch_start(self, trainer, *rest):
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

fit(*pickle.loads(Path(sys.argv[1]).read_bytes()), checkpoint=Path(sys.argv[2]), callbacks=[Kill()])
"""


def test_a_training_that_is_killed_ends_bit_for_bit_as_one_that_is_not(
    tmp_path: Path, config_with: MakeJob, tiny_panel: MakePanel
) -> None:
    config = config_with(
        models=["itransformer"], options={"itransformer": SMALL}, training=TRAINING | {"max_epochs": 4}
    )
    panel = tiny_panel(config)
    slices = Slices.of(panel, config)
    asked = (config, panel, slices, fit_scaler(panel, config, slices.fit), "itransformer")
    (tmp_path / "asked").write_bytes(pickle.dumps(asked))
    checkpoint = tmp_path / "checkpoints" / "a.ckpt"
    died = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "asked", checkpoint], env=os.environ, timeout=200, check=False
    )
    assert died.returncode == -signal.SIGKILL
    resumed = fit(*asked, checkpoint=checkpoint)
    whole = fit(*asked)
    assert resumed.resumed_after == 2
    assert is_same(resumed, whole)
    assert resumed.losses == whole.losses
    assert (resumed.best_loss, resumed.best_epoch, resumed.epochs) == (whole.best_loss, whole.best_epoch, whole.epochs)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["a.ckpt"]


def test_a_training_that_is_killed_after_its_last_epoch_ends_at_once(tmp_path: Path, run: Fit) -> None:
    file = tmp_path / "a.ckpt"
    with pytest.raises(Stopped):
        run("nlinear", checkpoint=file, callbacks=[StopAt(None)])
    Batches.count = 0
    resumed = run("nlinear", checkpoint=file, callbacks=[Batches()])
    assert Batches.count == 0
    assert (resumed.resumed_after, resumed.epochs) == (3, 3)
    assert is_same(resumed, run("nlinear"))


def test_patience_and_budget_go_on_where_a_killed_training_left_them(tmp_path: Path, run: Fit) -> None:
    worse = {"options": {"learning_rate": 0.3}, "training": {"max_epochs": 30, "patience": 2}}
    whole = run("nlinear", **worse)
    assert whole.epochs == whole.best_epoch + 2 < 30
    with pytest.raises(Stopped):
        run("nlinear", **worse, checkpoint=tmp_path / "a.ckpt", callbacks=[StopAt(whole.epochs - 1)])
    resumed = run("nlinear", **worse, checkpoint=tmp_path / "a.ckpt")
    assert (resumed.resumed_after, resumed.epochs) == (whole.epochs - 1, whole.epochs)
    assert is_same(resumed, whole)
    assert resumed.seconds > 0


@pytest.fixture
def left(tmp_path: Path, run: Fit) -> Path:
    """The checkpoint of a training that was stopped in its second epoch."""
    file = tmp_path / "a.ckpt"
    with pytest.raises(Stopped):
        run("nlinear", checkpoint=file, callbacks=[StopAt(1)])
    return file


def test_a_checkpoint_of_other_settings_or_data_is_not_resumed_and_noted(left: Path, run: Fit) -> None:
    content = left.read_bytes()
    for changed in (
        {"training": {"seed": 1}},
        {"options": {"learning_rate": 0.01}},
        {"change": lambda panel: replace(panel, targets=panel.targets + 1e-6)},
    ):
        left.write_bytes(content)
        fitted = run("nlinear", **changed, checkpoint=left)
        assert fitted.resumed_after == 0
        assert fitted.notes == ('not resumed: "a.ckpt" has other data, another config or another release',)


def test_an_unreadable_checkpoint_is_not_resumed_and_noted(left: Path, run: Fit) -> None:
    whole, content = run("nlinear"), left.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (bytes(flipped), content[: len(content) // 2], b"", b"rubbish"):
        left.write_bytes(damaged)
        fitted = run("nlinear", checkpoint=left)
        assert is_same(fitted, whole)
        assert fitted.resumed_after == 0
        assert fitted.notes[0].startswith('not resumed: "a.ckpt" cannot be read')


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_with_code_in_it_runs_none(tmp_path: Path, run: Fit) -> None:
    torch.save({"callbacks": {"Watch": Payload(tmp_path / "marker")}}, tmp_path / "a.ckpt")
    fitted = run("nlinear", checkpoint=tmp_path / "a.ckpt")
    assert fitted.notes[0].startswith('not resumed: "a.ckpt" cannot be read')
    assert not (tmp_path / "marker").exists()


def test_a_checkpoint_of_another_version_of_a_network_is_not_resumed_and_noted(left: Path, run: Fit) -> None:
    content = torch.load(left, weights_only=False)  # written by this test's own process
    content["state_dict"] = {f"other.{name}": tensor for name, tensor in content["state_dict"].items()}
    torch.save(content, left)
    fitted = run("nlinear", checkpoint=left)
    assert fitted.notes[0].startswith("not resumed: Error(s) in loading state_dict")
    assert is_same(fitted, run("nlinear"))


@pytest.fixture
def no_room() -> Iterator[None]:
    """The kernel refuses to write more than a few kilobytes to a file, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_room")
def test_a_full_disk_is_an_error_and_leaves_no_partial_file(tmp_path: Path, run: Fit) -> None:
    with pytest.raises(StorageError, match=r"a\.ckpt") as caught:
        run("nlinear", checkpoint=tmp_path / "a.ckpt")
    assert caught.value.code == "training.checkpoint_not_written"
    assert list(tmp_path.iterdir()) == []


# --- where a training starts ------------------------------------------------------------------------------------------


def test_a_warm_start_goes_on_from_the_weights_given(tmp_path: Path, run: Fit) -> None:
    cold = run("nlinear")
    save_weights(cold.model, tmp_path / "w.safetensors")
    warm = run("nlinear", weights=tmp_path / "w.safetensors")
    assert (cold.start, warm.start) == ("scratch", "warm")
    assert warm.losses["train_loss"][0] < cold.losses["train_loss"][-1]
    assert warm.notes == ()


def test_weights_of_another_network_are_not_used_and_noted(tmp_path: Path, run: Fit) -> None:
    save_weights(run("nlinear").model, tmp_path / "w.safetensors")
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    whole = run("dlinear")
    for name, reason in (("w.safetensors", "weights have another shape"), ("rubbish", "cannot be read")):
        fitted = run("dlinear", weights=tmp_path / name)
        assert fitted.start == "scratch"
        assert reason in fitted.notes[0]
        assert is_same(fitted, whole)


# --- when a training ends ---------------------------------------------------------------------------------------------


def test_the_best_weights_are_put_back(run: Fit) -> None:
    options = {"learning_rate": 0.3}  # too high: the loss rises again
    long = run("nlinear", options=options, training={"max_epochs": 30, "patience": 2})
    assert long.best_loss == min(long.losses["val_loss"])
    assert long.losses["val_loss"].index(long.best_loss) + 1 == long.best_epoch == long.epochs - 2
    assert is_same(long, run("nlinear", options=options, training={"max_epochs": long.best_epoch}))


def test_the_budget_ends_a_training_that_has_a_result(run: Fit) -> None:
    fitted = run("nlinear", training={"max_epochs": 100_000, "patience": 100_000, "budget": "1s"})
    assert 1 <= fitted.epochs < 100_000
    assert fitted.best_loss == min(fitted.losses["val_loss"])
    assert fitted.seconds >= 1


def test_without_a_validation_slice_the_last_weights_are_kept(config_with: MakeJob, tiny_panel: MakePanel) -> None:
    config = config_with(models=["nlinear"], training=TRAINING)
    panel = tiny_panel(config)
    last = Slices.of(panel, config).holdout
    fitted = fit(config, panel, Slices(last, last, last, last), fit_scaler(panel, config, last), "nlinear")
    assert (fitted.epochs, fitted.best_epoch, fitted.best_loss) == (3, 3, None)
    assert len(fitted.losses["train_loss"]) == 3


def test_a_loss_that_explodes_at_once_is_an_error(run: Fit) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate") as caught:
        run("nlinear", options={"learning_rate": 1e38})
    assert caught.value.code == "training.diverged"


class Explode(lightning.Callback):
    """Spoils the weights when the second epoch begins, as a step of infinite size does."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        del batch
        if (trainer.current_epoch, batch_idx) == (1, 0):
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.fill_(torch.inf)


def test_a_loss_that_explodes_later_ends_the_training_with_the_best_weights_before(run: Fit) -> None:
    fitted = run("nlinear", callbacks=[Explode()])
    assert (fitted.epochs, fitted.best_epoch) == (2, 1)
    assert fitted.notes == ("the loss exploded in epoch 2; the best weights of earlier epochs are used",)
    assert is_same(fitted, run("nlinear", training={"max_epochs": 1}))


def test_running_out_of_memory_is_an_error(run: Fit) -> None:
    with pytest.raises(TrainingError, match="itransformer ran out of memory") as caught:
        run("itransformer", options=SMALL | {"feed_forward": 2**45})  # beyond any address space
    assert caught.value.code == "training.out_of_memory"


def test_the_error_for_an_unknown_model_names_the_nearest(run: Fit, config_with: MakeJob) -> None:
    with pytest.raises(ConfigError, match='did you mean "nlinear"'):
        run("nlinaer")
    with pytest.raises(ConfigError, match='did you mean "nlinear"'):
        check_models(config_with(models=["nlinaer"]))
    with pytest.raises(ConfigError) as caught:
        check_models(config_with(models=["tide"], options={"tide": {"hiden_size": 4}}))
    assert caught.value.code == "model.unknown_option"


# --- what is fitted ---------------------------------------------------------------------------------------------------


def test_a_constant_channel_trains(run: Fit) -> None:
    def constant(panel: Panel) -> Panel:
        return replace(panel, targets=np.where(np.arange(2) == 1, 7.0, panel.targets), past=np.zeros_like(panel.past))

    best = run("itransformer", change=constant).best_loss
    assert best is not None
    assert np.isfinite(best)


def test_a_channel_without_any_value_is_named(run: Fit) -> None:
    def empty(panel: Panel) -> Panel:
        return replace(panel, targets=np.where(np.arange(2) == 1, np.nan, panel.targets))

    with pytest.raises(TrainingError, match="price is never observed") as caught:
        run("nlinear", change=empty)
    assert caught.value.code == "training.no_window"


def test_a_model_that_is_solved_has_no_epochs(tmp_path: Path, run: Fit) -> None:
    for name in ("seasonal_naive", "linear"):
        fitted = run(name, training={"precision": "bf16", "compile": True}, checkpoint=tmp_path / "a.ckpt")
        assert (fitted.best_loss, fitted.best_epoch, fitted.epochs, fitted.losses) == (None, 0, 0, {})
        assert (fitted.precision, fitted.compiled) == ("32-true", False)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_decides_the_weights(run: Fit) -> None:
    first = run("itransformer", training={"max_epochs": 1})
    assert is_same(first, run("itransformer", training={"max_epochs": 1}))
    assert not is_same(first, run("itransformer", training={"max_epochs": 1, "seed": 1}))


def test_progress_rises_to_the_whole(run: Fit) -> None:
    class Seen(Step):
        def __init__(self) -> None:
            self.fractions: list[float] = []

        def reach(self, fraction: float) -> None:
            self.fractions.append(fraction)

    seen = Seen()
    run("nlinear", step=seen)
    assert seen.fractions == sorted(seen.fractions)
    assert seen.fractions[-1] == 1.0


# --- how it is computed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "op"), [("informer", "prob_sparse_attention"), ("s_mamba", "selective_scan"), ("nlinear", None)]
)
def test_the_kernels_that_ran_are_recorded_with_the_reason(run: Fit, name: str, op: str | None) -> None:
    fitted = run(name, training={"max_epochs": 1, "stride": 40})
    assert list(fitted.kernels) == ([op] if op else [])
    assert all(message.startswith(("torch: ", "triton: ")) for message in fitted.kernels.values())
    assert fitted.peak_memory_mb > 0


@pytest.mark.parametrize("name", [ModelName.ITRANSFORMER, ModelName.S_MAMBA])
def test_bfloat16_leaves_weights_in_float32(run: Fit, name: str) -> None:
    training = {"max_epochs": 1, "stride": 24}
    plain = run(name, training=training)
    mixed = run(name, training=training | {"precision": "bf16"})
    assert mixed.precision == "bf16-mixed"
    assert not is_same(mixed, plain)
    assert mixed.best_loss == pytest.approx(plain.best_loss, rel=0.02)
    assert {tensor.dtype for tensor in weights(mixed).values() if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes bfloat16")
def test_left_to_itself_a_cpu_trains_in_float32(run: Fit) -> None:
    assert run("nlinear", training={"max_epochs": 1}).precision == "32-true"


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that torch compiled before is used."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_without_a_compiler_a_network_trains_uncompiled_with_a_note(tmp_path: Path, run: Fit) -> None:
    import torch._inductor.config as inductor

    with inductor.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)}):
        fitted = run("nlinear", training={"compile": True})
    assert not fitted.compiled
    assert fitted.notes[0].startswith("not compiled: ")
    assert is_same(fitted, run("nlinear"))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_network_exports_and_keeps_the_names_of_its_weights(tmp_path: Path, run: Fit) -> None:
    one_batch = {"max_epochs": 1, "batch_size": 1000}  # one graph for training, one for validation
    fitted, plain = run("nlinear", training=one_batch | {"compile": True}), run("nlinear", training=one_batch)
    assert fitted.compiled
    assert weights(fitted).keys() == weights(plain).keys()
    assert fitted.best_loss == pytest.approx(plain.best_loss, rel=1e-4)
    assert export_onnx(fitted.model, tmp_path / "model.onnx").largest_difference < 1e-4
