"""Pre-training on masked patches: it learns, `fit` starts from it, and it helps with little data."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from darts import TimeSeries
from torch import Tensor

from models import ModelError, ModelName, PatchTSMixerModel
from models.networks.masked_pretraining import MaskedPretraining, random_mask

LOOKBACK, HORIZON = 48, 8
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def waves(steps: int, seeds: range, components: int = 1) -> list[TimeSeries]:
    """Noisy sines of random period and phase."""
    series = []
    for seed in seeds:
        draw = np.random.default_rng(seed)
        turns = np.arange(steps)[:, None] / draw.uniform(8, 24) + draw.uniform(size=components)
        values = np.sin(2 * np.pi * turns) + 0.2 * draw.standard_normal((steps, components))
        series.append(TimeSeries.from_times_and_values(pd.RangeIndex(steps), values.astype(np.float32)))
    return series


def build(callbacks: tuple[pl.Callback, ...] = (), **options: Any) -> Any:
    arguments: dict[str, Any] = {
        "width": 16,
        "patch_length": 6,
        "patch_stride": 6,
        "mix_channels": False,
        "dropout": 0.0,
        "head_dropout": 0.0,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "lr_scheduler_cls": None,
        "averaging": 0.0,
        "loss": "mse",
        "random_state": 0,
        "pl_trainer_kwargs": {**QUIET, "callbacks": list(callbacks)},
    }
    return PatchTSMixerModel(LOOKBACK, HORIZON, **{**arguments, **options})


def weights(model: Any) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.model.network.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class StartingWeights(pl.Callback):
    """Keep what a training started from."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        del trainer
        self.kept = {name: weight.clone() for name, weight in pl_module.network.state_dict().items()}


def test_masked_patches_are_reconstructed_far_better_than_by_the_mean() -> None:
    model = build(learning_rate=1e-2).fit(waves(LOOKBACK + HORIZON, range(2)), epochs=1, verbose=False)
    task = MaskedPretraining(model.model, mask_ratio=0.4, same_mask=False)
    trainer = pl.Trainer(max_epochs=6, **QUIET)
    setup = model._setup_for_train(model._build_train_dataset(waves(80, range(60)), None, None, None, None))
    trainer.fit(task, setup["datamodule"].train_dataloader())
    # A masked patch of a scaled window predicted by its mean, 0, costs 1; the noise alone costs 0.08.
    assert trainer.callback_metrics["reconstruction_loss"] < 0.5


def test_fit_starts_from_the_pretrained_weights() -> None:
    start = StartingWeights()
    series = waves(80, range(3))
    model = build((start,)).pretrain(series, epochs=1, verbose=False)
    pretrained = weights(model)
    assert model.epochs_trained == 0
    model.fit(series, epochs=1, verbose=False)
    assert same(start.kept, pretrained)
    assert not same(weights(model), pretrained)


def test_pretraining_is_the_same_twice_and_survives_saving(tmp_path: Any) -> None:
    series = waves(80, range(3))
    first, second = (build(dropout=0.2).pretrain(series, epochs=2, verbose=False) for _ in range(2))
    assert same(weights(first), weights(second))
    first.save(str(tmp_path / "model.pt"))
    loaded = PatchTSMixerModel.load(str(tmp_path / "model.pt"), pl_trainer_kwargs=QUIET)
    assert same(weights(loaded), weights(second))
    forecasts = [model.fit(series, epochs=1, verbose=False).predict(HORIZON, series[0]) for model in (loaded, second)]
    np.testing.assert_array_equal(forecasts[0].values(), forecasts[1].values())


@pytest.mark.slow
def test_where_labelled_windows_are_few_pretraining_helps() -> None:
    few, held_out = waves(LOOKBACK + HORIZON, range(100, 112)), waves(LOOKBACK + HORIZON, range(200, 260))

    def error(model: Any) -> float:
        model.fit(few, epochs=50, verbose=False)
        forecasts = model.predict(HORIZON, [series[:-HORIZON] for series in held_out], verbose=False)
        pairs = zip(forecasts, held_out, strict=True)
        return float(np.mean([(message.values() - series.values()[-HORIZON:]) ** 2 for message, series in pairs]))

    assert error(build().pretrain(waves(80, range(60)), epochs=4, verbose=False)) < 0.9 * error(build())


def test_the_heads_alone_can_be_fitted_to_a_pretrained_backbone() -> None:
    series = waves(80, range(3))
    model = build(enable_finetuning={"unfreeze": ["*.head.*"]})
    untrained = weights(build().pretrain(series, epochs=1, verbose=False))
    before = weights(model.pretrain(series, epochs=1, verbose=False))
    assert same(before, untrained)  # what is frozen for fit is still pre-trained
    after = weights(model.fit(series, epochs=1, verbose=False))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "members.0.head.weight",
        "members.0.head.bias",
    }


def test_a_pretrained_model_does_not_forecast_before_it_is_fitted() -> None:
    series = waves(80, range(2))
    model = build().fit(series, epochs=1, verbose=False).pretrain(series, epochs=1, verbose=False)
    with pytest.raises(ValueError, match="fit"):
        model.predict(HORIZON, series[0])


@pytest.mark.parametrize(
    "options",
    [
        {"members": 2, "decomposition": 5},
        {"scale_windows": False, "use_reversible_instance_norm": {"affine": True}},
        {"averaging": 0.9, "hierarchy": 3, "channel_context": 1},
    ],
    ids=["members", "revin", "heads"],
)
def test_every_frame_and_all_covariates_can_be_pretrained(
    panel: Any, tiny_options: Callable[..., Mapping[str, Any]], options: Mapping[str, Any]
) -> None:
    own = {**tiny_options(ModelName.PATCH_TSMIXER), "mix_channels": True, "random_state": 1}
    model: Any = PatchTSMixerModel(26, HORIZON, **own, **options, pl_trainer_kwargs=QUIET)
    model.pretrain(panel.series, **panel.covariates, same_mask=True, epochs=1, verbose=False)
    pretrained = weights(model)
    model.fit(panel.series, **panel.covariates, epochs=1, verbose=False)
    assert not same(pretrained, weights(model))
    assert all(weight.isfinite().all() for weight in weights(model).values())


@pytest.mark.parametrize("ratio", [0.01, 0.4, 0.99])
def test_a_mask_takes_its_share_of_every_window_and_channel(ratio: float) -> None:
    patches = torch.zeros(3, 10, 5, 4)
    chosen = {0.01: 1, 0.4: 4, 0.99: 9}[ratio]
    torch.manual_seed(0)
    apart, together = random_mask(patches, ratio, same=False), random_mask(patches, ratio, same=True)
    assert (apart.sum(1) == chosen).all()
    assert (together.sum(1) == chosen).all()
    assert (together == together[:1]).all()
    assert not (apart == apart[:1]).all()


@pytest.mark.parametrize(
    ("options", "ratio", "code"),
    [
        ({}, 0.0, "model.option_out_of_range"),
        ({}, 1.0, "model.option_out_of_range"),
        ({"patch_stride": 3}, 0.4, "model.option_out_of_range"),
        ({"patch_length": 40, "patch_stride": 40}, 0.4, "model.lookback_too_short"),
    ],
)
def test_what_cannot_be_pretrained_is_refused(options: dict[str, Any], ratio: float, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(**options).pretrain(waves(80, range(1)), mask_ratio=ratio, verbose=False)
    assert caught.value.code == code
