"""Log a night to MLflow: parameters, scores, curves, figures and models, for comparison in its UI."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.metrics import skill
from forecast.evaluation.promotion import Verdict
from forecast.evaluation.scores import Evidence
from forecast.home import cores
from forecast.lake.table import table_location
from forecast.panel import Panel
from forecast.plots.backtest import bars
from forecast.plots.charts import ACTUAL, LINE, QUIET, by_lead
from forecast.runtime.manifest import GOLDEN, NETWORK
from forecast.runtime.model import ServedModel, load
from forecast.runtime.precision import Variants
from forecast.tracking.entities import DARTS, Lineage
from forecast.tracking.runs import TrackedNight, TrackedRun
from pipelines.preparation.slices import Slices
from pipelines.preparation.windows import Windows
from pipelines.tracking.figures import diagnose
from pipelines.tracking.mlflow_model import application, pinned, rows_before
from pipelines.tracking.tables import all_scores, guards_table, leaderboard_table, scores_table
from pipelines.training.candidates import Candidate

_PACKAGES = ("torch", "darts")
_HORIZON_SCORES = ("pinball", "mae", "mse", "coverage")
_LEAD_SCORES = ("pinball", "mae", "rmse", "coverage", "width")
_CHANNEL_SCORES = ("pinball", "mae_in_units", "coverage")
_SKILLS = ("seasonal_naive", "linear")
"""Baselines for the skill scores."""
_FEW = 4
"""Up to this number, horizons and channels have metrics of their own; all scores are in a table."""


def night_tags(version: int, digest: str, holdout: Windows) -> dict[str, object]:
    """Return the tags shared by all runs of a night; runs with equal origins and units are comparable."""
    return {
        "data_version": version,
        "data_digest": digest,
        "origins_digest": holdout.digest,
        "windows": len(holdout.origins),
        "units": "standard deviations of each series and channel over the fit rows",
        "code_version": code_version(),
    }


def lineage(
    name: str, config: DatasetConfig, tables: Path | str, version: int, digest: str, holdout: Windows
) -> tuple[Lineage, Lineage]:
    """Return the training data and the evaluation data of a night; ``tables`` is the location of the lake."""
    table = str(table_location(tables, name, "observations"))
    return (
        Lineage(name, digest, table, version, tuple(config.channels), "training"),
        Lineage(f"{name} holdout", holdout.digest, table, version, config.targets, "evaluation"),
    )


def parameters(config: DatasetConfig, model_name: str) -> dict[str, object]:
    """Return a model's training settings as MLflow parameters."""
    training = config.training.model_dump(mode="json", exclude={"baselines"})
    shared = {
        "model": model_name,
        "lookback": config.lookback,
        "horizon": config.horizon,
        "quantiles": config.quantiles,
    }
    return {
        **shared,
        **training,
        **{f"option.{name}": value for name, value in config.options.get(model_name, {}).items()},
    }


def log_task(
    run: TrackedRun, config: DatasetConfig, model_name: str, panel: Panel, slices: Slices, data: Sequence[Lineage]
) -> None:
    """Log the inputs of a training before it starts: parameters, splits, data, environment."""
    ends = {
        "fit": slices.fit, "validation": slices.validation, "calibration": slices.calibration,
        "holdout": slices.holdout,
    }  # fmt: skip
    splits = {f"split.{part}_until": f"{panel.time(row):%Y-%m-%dT%H:%MZ}" for part, row in ends.items()}
    run.log(params={**parameters(config, model_name), **splits}, tags=environment())
    run.read(*data)


def log_candidate(
    run: TrackedRun,
    candidate: Candidate,
    models: Path,
    holdout: Windows,
    panel: Panel,
    config: DatasetConfig,
    data: Lineage,
) -> str:
    """Log a model, the record of its training and its scores on the holdout, which is ``data``.

    Returns MLflow's identifier of the model to register: the pyfunc form, with rows in and rows out.
    """
    folder, evidence, fitted = models / candidate.folder, candidate.evidence, candidate.fitted
    served = load(folder)
    model = _log_models(run, served, folder, holdout, panel, config)
    run.log(metrics=numbers(evidence), curves=curves(evidence), model=model, data=data)
    seen = evidence.smoke_test
    run.log(
        metrics={
            "cost/training_seconds": fitted.seconds, "cost/epochs": fitted.epochs,
            "cost/windows_per_second": fitted.windows / fitted.seconds if fitted.windows else float("nan"),
            "cost/peak_memory_mb": fitted.peak_memory_mb,
            "cost/latency_ms": seen.latency_ms, "cost/size_mb": seen.size_mb, **precisions(seen.variants),
            **{f"loss/best_from_{start}": loss for start, loss in candidate.race.items()},
        },
        curves={f"loss/{name.removesuffix('_loss')}": values for name, values in fitted.losses.items() if values},
        params={
            "start": fitted.start, "trained_in": fitted.precision, "compiled": fitted.compiled,
            "serves_in": seen.precision,
            "best_epoch": fitted.best_epoch, "resumed_after": fitted.resumed_after,
        },
        tags={
            "model_version": evidence.model_version, **({"notes": "; ".join(fitted.notes)} if fitted.notes else {}),
            **({} if seen.variants is None else {"precisions": seen.variants.summary}),
            **{f"kernel.{op}": route for op, route in fitted.kernels.items()},
        },
    )  # fmt: skip
    run.note(scores_table(evidence))
    run.table(all_scores(evidence), "scores.json")
    run.file(evidence.model_dump_json(), "evidence.json")
    for name, figure in diagnose(served, holdout, panel, config, evidence):
        run.figure(figure, f"figures/{name}.html")
    return model


def log_refitted(run: TrackedRun, folder: Path, holdout: Windows, panel: Panel, config: DatasetConfig) -> str:
    """Log a refitted model in the run of the scored one; returns MLflow's identifier of the model to register."""
    return _log_models(run, load(folder), folder, holdout, panel, config)


def log_comparison(
    night: TrackedNight,
    leaderboard: Sequence[Evidence],
    verdict: Verdict,
    config: DatasetConfig,
    baseline_names: Sequence[str],
) -> None:
    """Log verdict, leaderboard and figures to the night's run, and each model's rank to its own run.

    ``leaderboard`` has the best first.
    """
    baselines = [one for one in leaderboard if one.model_name in baseline_names]
    best = min((one.pinball for one in baselines), default=float("nan"))
    champion = verdict.challenger if verdict.promote else verdict.champion
    colours, names = {}, {}
    for one in leaderboard:
        name = f"{one.model_version} (champion)" if one.model_version == champion else one.model_version
        names[one.model_version] = name
        colours[name] = QUIET if one in baselines else ACTUAL if one.pinball >= best else LINE
    night.log(
        tags={"verdict": verdict.sentence, "challenger": verdict.challenger, "promoted": verdict.promote},
        metrics={
            "accuracy/pinball": next(one.pinball for one in leaderboard if one.model_version == verdict.challenger),
            "accuracy/gain_over_champion": float("nan") if verdict.gain is None else verdict.gain,
        },
    )
    night.note(
        f"{verdict.sentence}\n\n{leaderboard_table(leaderboard, names, config)}\n\nGuards:\n\n{guards_table(verdict)}"
    )
    night.file(verdict.model_dump_json(indent=1), "verdict.json")
    unit = "standard deviations of each channel"
    title = f"Pinball loss on the same {leaderboard[0].windows} windows (grey: baselines; red: no better than these)"
    losses = {names[one.model_version]: one.pinball for one in leaderboard}
    night.figure(bars(title, unit, losses, colours), "figures/1 leaderboard.html")
    leads = {names[one.model_version]: one.by_lead["pinball"] for one in leaderboard}
    night.figure(
        by_lead(f"Pinball loss by lead time, {config.frequency} steps", unit, leads), "figures/2 by lead time.html"
    )
    for run in night.children:
        for one in leaderboard:
            if one.model_name == run.name and one.model_version != verdict.champion:
                _log_rank(run, one, leaderboard, baselines, verdict)


def version_tags(
    config: DatasetConfig, evidence: Evidence, verdict: Verdict, version: int, digest: str
) -> dict[str, object]:
    """Return the tags of a registered version."""
    return {
        "model_name": evidence.model_name,
        "data_version": version,
        "data_digest": digest,
        "origins_digest": evidence.origins_digest,
        "pinball": evidence.pinball,
        "verdict": verdict.sentence,
        "verdict_numbers": verdict.model_dump_json(),
        "refit": "fitted again on all rows when promoted" if config.training.refit else "never fitted on the holdout",
        "code_version": code_version(),
    }


def numbers(evidence: Evidence) -> dict[str, float]:
    """Return a model's final metrics, few enough for MLflow's pages with any number of channels and horizons."""
    metrics = {"accuracy/pinball": evidence.pinball}  # first: MLflow's comparison page starts with it
    metrics |= {f"accuracy/{name}": value for name, value in evidence.overall}
    horizons = list(evidence.by_horizon)
    shown = sorted({horizons[int(place)] for place in np.linspace(0, len(horizons) - 1, min(_FEW, len(horizons)))})
    for horizon in shown:
        scores = evidence.by_horizon[horizon]
        metrics |= {f"accuracy_by_horizon/{name}.h{horizon}": getattr(scores, name) for name in _HORIZON_SCORES}
    if len(evidence.by_channel) <= _FEW:
        for channel, of in evidence.by_channel.items():
            metrics |= {f"accuracy_by_channel/{name}.{channel}": getattr(of, name) for name in _CHANNEL_SCORES}
    else:
        worst = {"pinball": max, "coverage": min, "mase": max}
        for name, pick in worst.items():
            values = [getattr(of, name) for of in evidence.by_channel.values() if np.isfinite(getattr(of, name))]
            metrics[f"accuracy_by_channel/{name}.worst"] = pick(values, default=float("nan"))
    return metrics


def precisions(variants: Variants | None) -> dict[str, float]:
    """Return int8's size, latency and loss as shares of float32's; empty if int8 was not tried."""
    if variants is None:
        return {}
    fields = {"size": "size_mb", "latency": "latency_ms", "loss": "loss"}
    exact, coarse = variants.float32.model_dump(), variants.int8.model_dump()
    return {
        f"int8/share_of_{name}": coarse[field] / exact[field] if exact[field] else float("nan")
        for name, field in fields.items()
    }


def curves(evidence: Evidence) -> dict[str, Sequence[float]]:
    """Return the scores of a model by lead time."""
    return {f"accuracy_by_lead/{name}": evidence.by_lead[name] for name in _LEAD_SCORES}


def environment() -> dict[str, object]:
    """Return tags that describe the machine and the library versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {f"env.{name}": importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "env.python": platform.python_version(), "env.platform": platform.platform(),
        "env.cores": cores(), "env.gpu": gpu, **versions,
    }  # fmt: skip


def code_version() -> str:
    """Return the version of the installed package."""
    return importlib.metadata.version("forecast-service")


def _log_rank(
    run: TrackedRun, one: Evidence, leaderboard: Sequence[Evidence], baselines: Sequence[Evidence], verdict: Verdict
) -> None:
    place = f"{[other.model_version for other in leaderboard].index(one.model_version) + 1} of {len(leaderboard)}"
    sentences = [f"{place} by pinball loss."]
    best = min((other for other in baselines if other is not one), key=lambda other: other.pinball, default=None)
    if best is not None and best.pinball <= one.pinball and one not in baselines:
        sentences.append(
            f"**No better than {best.model_name}, a baseline ({one.pinball:.4f} against {best.pinball:.4f}).**"
        )
    if one.model_version == verdict.challenger:
        sentences.append(verdict.sentence)
        run.log(tags={"verdict": verdict.sentence})
    tonight = [other for other in baselines if other.model_version != verdict.champion]
    skills = {other.model_name: skill(one.pinball, other.pinball) for other in tonight}
    run.log(
        metrics={f"accuracy/skill_over_{name}": skills[name] for name in _SKILLS if name in skills},
        tags={"place": place},
    )
    run.note(f"{' '.join(sentences)}\n\n{scores_table(one)}")


def _log_models(
    run: TrackedRun, served: ServedModel, folder: Path, holdout: Windows, panel: Panel, config: DatasetConfig
) -> str:
    name = served.manifest.model_name
    if (folder / DARTS).is_dir():
        run.log_saved(f"{name}-darts", folder / DARTS)
        shutil.rmtree(folder / DARTS)
    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        series = [str(one) for one in golden["series"]][:1]
        feeds = served.feeds(golden["targets"][:1], golden["past"][:1], golden["future"][:1], series)
    run.log_onnx(f"{name}-onnx", folder / NETWORK, feeds, served.run(feeds), pinned("onnx", "onnxruntime"))
    newest = max(range(len(holdout.origins)), key=lambda window: holdout.origins[window])
    example = rows_before(
        panel, config, panel.series.index(holdout.series[newest]), panel.index(holdout.origins[newest])
    )
    with application(folder, config, example) as packed:
        return run.log_application(name, packed)  # last: the UI shows the last one with the run
