"""Attributions name the inputs on which a forecast depends."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.utils.likelihood_models import GaussianLikelihood

from models import TRAINABLE, ITransformerModel, LinearModel, ModelError, ModelName
from models.interpretation import Attribution, integrated_gradients

LOOKBACK, HORIZON = 26, 8
# ProbSparse attention chooses its queries: along the path the forecast jumps where the choice changes.
JUMPS = {ModelName.INFORMER: 0.02}
TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def explain(model: Any, panel: Any, **choices: Any) -> Attribution:
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    return integrated_gradients(model, panel.series[0], **covariates, **choices)


def noise(steps: int, columns: list[str], seed: int) -> TimeSeries:
    values = np.random.default_rng(seed).standard_normal((steps, len(columns))).astype(np.float32)
    return TimeSeries.from_times_and_values(
        pd.date_range("2024-01-01", periods=steps, freq="h"), values, columns=columns
    )


@pytest.mark.parametrize("name", TRAINABLE)
def test_attributions_sum_to_what_the_window_changes(
    name: ModelName, panel: Any, fitted: Callable[[ModelName], Any]
) -> None:
    """Completeness, for each network of the catalogue, and with what it forecasts by itself."""
    model = fitted(name)
    found = explain(model, panel, target="b", leads=range(3, 6))
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    raw = {"predict_likelihood_parameters": True} if model.likelihood else {}
    column = "b_q0.500" if model.likelihood else "b"
    values = model.predict(HORIZON, panel.series[0], **covariates, verbose=False, **raw)[column].values()
    assert found.forecast == pytest.approx(values[2:5].mean(), abs=1e-5)
    assert abs(found.forecast - found.baseline) > 1e-3
    assert abs(found.residual) < JUMPS.get(name, 2e-3) * abs(found.forecast - found.baseline) + 1e-12
    assert [part.attributions.shape for part in found.inputs] == [(26, 3), (26, 2), (34, 3)]
    assert found.by_variate.sum() == pytest.approx(1)
    assert found.by_lag.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", TRAINABLE)
def test_explaining_leaves_the_model_as_it_was(
    name: ModelName, panel: Any, fitted: Callable[[ModelName], Any], forecast: Callable[..., np.ndarray]
) -> None:
    model = fitted(name)
    before, weights = forecast(model, panel), {key: value.clone() for key, value in model.model.state_dict().items()}
    model.model.train()
    explain(model, panel, steps=2)
    assert model.model.training
    after = model.model.state_dict()
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in weights.items())
    np.testing.assert_array_equal(forecast(model, panel), before)


def test_in_a_linear_model_each_value_adds_what_its_absence_takes_away(
    panel: Any, fitted: Callable[[ModelName], Any]
) -> None:
    model = fitted(ModelName.LINEAR)
    found = explain(model, panel, target="a", steps=1)
    history = panel.series[0].astype(np.float64)
    mean = history[-LOOKBACK:].values().mean(0)

    def forecast(series: TimeSeries) -> float:
        return integrated_gradients(
            model, series, panel.past_covariates[0], panel.future_covariates[0], target="a", steps=1
        ).forecast

    past = found.inputs[0]
    for lag, channel in ((-1, 0), (-7, 0), (-26, 0), (-3, 1)):
        values = history.values(copy=True)
        values[lag, channel] = mean[channel]
        missing = forecast(history.with_values(values))
        place = past.lags.index(lag), channel
        # The mean of the look-back moves as well, which the gradient knows and so does this.
        assert past.attributions[place] == pytest.approx(found.forecast - missing, abs=1e-9)
    assert abs(found.residual) < 1e-12


def test_inputs_without_influence_get_nothing(panel: Any, fitted: Callable[[ModelName], Any]) -> None:
    found = explain(fitted(ModelName.LINEAR), panel, target="a")
    past, ignored, known = found.inputs
    assert (ignored.kind, ignored.names) == ("past_covariates", ("p", "q"))
    assert not ignored.attributions.any()
    assert not past.attributions[:, 1:].any()  # each channel is forecast from itself
    assert past.attributions[:, 0].any()
    assert known.attributions.any()


def test_a_constant_window_is_its_own_baseline(panel: Any, fitted: Callable[[ModelName], Any]) -> None:
    flat = panel.series[0] * 0 + 3
    found = integrated_gradients(
        fitted(ModelName.SEASONAL_NAIVE), flat, panel.past_covariates[0], panel.future_covariates[0]
    )
    assert (found.forecast, found.baseline) == (3, 3)
    assert not found.by_variate.any()


def test_lags_and_shares_are_named(panel: Any, fitted: Callable[[ModelName], Any]) -> None:
    found = explain(fitted(ModelName.SEASONAL_NAIVE), panel, target="c", leads=range(2, 3))
    # A season of 6 steps: lead time 2, which is lag 1 ahead, repeats lag -5.
    assert found.by_lag.idxmax() == -5
    assert found.by_lag[-5] == pytest.approx(1)
    assert found.by_variate["past_target", "c"] == pytest.approx(1)
    assert list(found.by_lag.index) == list(range(-LOOKBACK, HORIZON))
    frame = found.to_frame()
    assert list(frame.columns) == ["kind", "variate", "lag", "attribution"]
    strongest = frame.loc[frame["attribution"].abs().idxmax()]
    assert (strongest["kind"], strongest["variate"], strongest["lag"]) == ("past_target", "c", -5)


def test_known_future_values_have_lags_behind_the_gap(panel: Any) -> None:
    model: Any = LinearModel(LOOKBACK, HORIZON, output_chunk_shift=3, pl_trainer_kwargs=TRAINER)
    future = panel.future_covariates[0]
    model.fit(panel.series[0], future_covariates=future, verbose=False)
    found = integrated_gradients(model, panel.series[0], future_covariates=future)
    assert found.inputs[1].lags == (*range(-LOOKBACK, 0), *range(3, 3 + HORIZON))
    assert abs(found.residual) < 1e-12


def test_the_one_lag_of_the_one_variate_that_matters_is_found() -> None:
    """The target repeats covariate `q` as it was three steps before; nothing else holds information about it."""
    covariates = noise(400, ["p", "q"], seed=0)
    echo = np.roll(covariates["q"].values(), 3, axis=0)
    target = TimeSeries.from_times_and_values(covariates.time_index, echo, columns=["y"])
    model: Any = ITransformerModel(
        8,
        1,
        width=32,
        feed_forward=16,
        heads=2,
        layers=1,
        dropout=0.0,
        scale_windows=False,
        decomposition=0,
        averaging=0.0,
        loss="mse",
        n_epochs=8,
        learning_rate=1e-2,
        lr_scheduler_cls=None,
        optimizer_cls=torch.optim.Adam,
        batch_size=32,
        random_state=0,
        pl_trainer_kwargs=TRAINER,
    )
    model.fit(target, past_covariates=covariates, verbose=False)
    origins = (-1, -5, -9, -20)
    found = [integrated_gradients(model, target[:end], past_covariates=covariates) for end in origins]
    assert all(part.by_variate.idxmax() == ("past_covariates", "q") for part in found)
    assert all(part.by_lag.idxmax() == -3 for part in found)
    frames = [part.to_frame().set_index(["variate", "lag"])["attribution"].abs() for part in found]
    ranking = pd.concat(frames, axis=1).mean(axis=1).sort_values(ascending=False)
    assert ranking.index[0] == ("q", -3)
    assert ranking.iloc[0] > 2 * ranking.iloc[1]


@pytest.mark.parametrize("options", [{"use_reversible_instance_norm": True}, {"members": 2, "averaging": 0.9}])
def test_scaling_and_members_are_a_part_of_what_is_explained(options: dict[str, Any], panel: Any) -> None:
    model: Any = ITransformerModel(
        LOOKBACK,
        HORIZON,
        width=16,
        feed_forward=16,
        heads=2,
        n_epochs=1,
        likelihood=GaussianLikelihood(),
        pl_trainer_kwargs=TRAINER,
        **options,
    )
    model.fit(panel.series, verbose=False)
    for parameter in ("mu", "sigma"):
        found = integrated_gradients(model, panel.series[0], parameter=parameter)
        assert abs(found.residual) < 2e-3 * abs(found.forecast - found.baseline)
    assert integrated_gradients(model, panel.series[0]).forecast == pytest.approx(
        integrated_gradients(model, panel.series[0], parameter="mu").forecast
    )


@pytest.mark.parametrize(
    ("choices", "code"),
    [
        ({"target": "z"}, "model.option_out_of_range"),
        ({"leads": range(9, 10)}, "model.option_out_of_range"),
        ({"leads": range(0)}, "model.option_out_of_range"),
        ({"parameter": "q0.333"}, "model.option_out_of_range"),
        ({"steps": 0}, "model.option_out_of_range"),
    ],
)
def test_a_question_without_answer_is_refused(
    choices: dict[str, Any], code: str, panel: Any, fitted: Callable[[ModelName], Any]
) -> None:
    with pytest.raises(ModelError) as caught:
        explain(fitted(ModelName.DLINEAR), panel, **choices)
    assert caught.value.code == code


def test_other_channels_than_in_training_are_refused(panel: Any, fitted: Callable[[ModelName], Any]) -> None:
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    with pytest.raises(ModelError, match="fitted for 3") as caught:
        integrated_gradients(fitted(ModelName.ITRANSFORMER), panel.series[0][["a", "b"]], **covariates)
    assert caught.value.code == "model.channel_count"


def test_an_unfitted_model_explains_nothing(panel: Any, tiny: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="call fit") as caught:
        explain(tiny(ModelName.ITRANSFORMER), panel)
    assert caught.value.code == "model.not_fitted"
