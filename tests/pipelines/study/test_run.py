from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from rich.console import Console

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.progress import Reporter
from models.catalog import TRAINABLE, ModelName
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.training_data import TrainingData
from pipelines.study.plan import Condition, Question, points
from pipelines.study.run import Study, study
from pipelines.study.scores import ROWS, Bench, read_rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def home(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    tiny_document: dict[str, Any],
    migrated: Path,
) -> Installation:
    tiny_document["datasets"]["tiny"] |= {
        "models": ["seasonal_naive", "dlinear"],
        "horizons": [6, 12],
        "training": {"max_epochs": 1, "stride": 8, "batch_size": 32, "baselines": []},
    }
    installation = make_home(tiny_rows(), tiny_document)
    shutil.copyfile(migrated, installation.home.path / "mlflow.db")
    ingest(installation.dataset("tiny"))
    return installation


def look(home: Installation, *questions: str, **limits: Any) -> tuple[Study, list[str]]:
    """Run a study; also return the trained cells."""
    said = StringIO()
    found = study(home.dataset("tiny"), Reporter(Console(file=said, width=200)), questions=questions, **limits)
    return found, re.findall(r"^(.*): started$", said.getvalue(), re.MULTILINE)


@pytest.mark.slow
def test_a_study_answers_and_the_next_one_trains_only_what_is_new(home: Installation) -> None:
    first, trained = look(home, "noise", "missing")
    assert trained == ["seasonal_naive, look-back 48", "dlinear, look-back 48"]
    assert (first.stopped, first.failures, first.missing) == ("done", {}, ())
    noise, missing = first.answers
    assert noise.columns == ("clean", "0.1", "0.25", "0.5", "1")
    assert missing.columns[4:] == ("10% in blocks", "20% in blocks", "40% in blocks")
    naive = noise.losses["seasonal_naive"]
    assert naive["clean"] < naive["0.25"] < naive["1"]  # it repeats the noise
    assert missing.losses["dlinear"]["clean"] == noise.losses["dlinear"]["clean"]
    assert "seasonal_naive most" in noise.sentence
    assert missing.answered == {}

    second, trained = look(home, "noise", "lookback", models=["seasonal_naive"])
    assert trained == [f"seasonal_naive, look-back {steps}" for steps in (12, 24, 96)]
    assert second.answers[0].values["seasonal_naive"] == noise.values["seasonal_naive"]
    assert list(second.failures) == ["seasonal_naive, look-back 12"]  # a day is its season
    lengths = second.answers[1].losses["seasonal_naive"]
    assert list(lengths) == ["24", "48", "96"]
    assert lengths["24"] == pytest.approx(lengths["96"], rel=1e-3)  # it repeats the last day

    page = Path(second.report).read_text(encoding="utf-8")
    assert "plotly" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)  # nothing is fetched
    assert second.answers[0].sentence[:60] in page
    rows = read_rows(Path(second.rows))
    assert rows.schema == ROWS
    assert rows["windows"].unique().len() == 1  # all were scored on the same origins
    assert len(rows) == 2 * 11 + 2

    client = mlflow.MlflowClient(home.home.tracking_uri)
    run = client.get_run(second.tracking_run)
    assert (run.info.status, run.data.tags["kind"]) == ("FINISHED", "study")
    kept = {entry.path for entry in client.list_artifacts(second.tracking_run)}
    assert {"figures", "tiny-study.html", "rows.json"} <= kept
    assert second.answers[0].sentence in run.data.tags["mlflow.note.content"]


def test_a_study_without_time_says_what_is_missing_and_keeps_what_is_there(home: Installation) -> None:
    found, trained = look(home, "noise", minutes=1e-6)
    assert (found.stopped, trained, found.answers) == ("minutes", [], ())
    assert found.missing == ("seasonal_naive, look-back 48", "dlinear, look-back 48")
    assert not list(home.home.reports.glob("*.csv"))


def test_the_rows_of_other_data_are_not_taken_for_these(home: Installation) -> None:
    history = TrainingData.read(home.dataset("tiny"))
    (point, *_) = points(Question.NOISE, ModelName.DLINEAR, history.config)
    other = TrainingData(**{name: getattr(history, name) for name in TrainingData.__slots__} | {"digest": "other"})
    assert point.cell.key(history) != point.cell.key(other)


def test_all_look_backs_are_scored_on_the_same_origins(home: Installation) -> None:
    history = TrainingData.read(home.dataset("tiny"))
    bench = Bench.of(history)
    assert bench.windows.targets.shape[1] == 2 * 48 + 24
    slices = history.slices
    first, last = history.panel.time(slices.calibration), history.panel.time(slices.holdout - 12)
    assert min(bench.windows.origins) == first
    assert max(bench.windows.origins) <= last


@pytest.mark.parametrize("model", TRAINABLE)
def test_questions_share_the_training_of_the_config_s_own_options(
    model: ModelName, config_with: Callable[..., DatasetConfig]
) -> None:
    config = config_with(models=["itransformer"], options={"itransformer": {"width": 64}}, lookback=48)
    plan = {question: points(question, model, config) for question in Question}
    present = {point.cell for of in plan.values() for point in of if point.cell.is_present}
    assert len(present) == 1
    assert len({point.cell for point in plan[Question.LOOKBACK]}) == 4
    assert all(point.cell.is_present for of in plan.values() for point in of if point.condition is not Condition.CLEAN)
    for of in plan.values():
        assert len({(point.label, point.condition) for point in of}) == len(of)


def test_larger_and_smaller_models_differ_in_their_widths_alone(config_with: Callable[..., DatasetConfig]) -> None:
    config = config_with(models=["itransformer"], options={"itransformer": {"width": 64}}, lookback=48)
    sizes = points(Question.SIZE, ModelName.ITRANSFORMER, config)
    assert [(point.label, point.cell.options["width"], point.cell.options["feed_forward"]) for point in sizes] == [
        ("x0.25", 16, 32), ("x0.5", 32, 64), ("x1", 64, 128), ("x2", 128, 256),
    ]  # fmt: skip
    without, with_ = points(Question.DECOMPOSITION, ModelName.ITRANSFORMER, config)
    assert (without.cell.options["decomposition"], with_.cell.options["decomposition"]) == (0, 25)
    assert points(Question.DECOMPOSITION, ModelName.LINEAR, config) == []


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"models": ["dlinaer"]}, "model.unknown"),
        ({"models": ["chronos_2"]}, "model.unknown"),
        ({"questions": ["nosie"]}, "study.unknown_question"),
        ({"minutes": 0}, "study.no_time"),
    ],
)
def test_an_invalid_study_is_an_error(home: Installation, asked: dict[str, Any], code: str) -> None:
    with pytest.raises(ForecastError) as caught:
        study(home.dataset("tiny"), Reporter(Console(file=StringIO())), **asked)
    assert caught.value.code == code


def test_rows_that_no_study_wrote_are_refused(home: Installation) -> None:
    (home.home.reports / "tiny-study.csv").write_text("a,b\n1,x\n", encoding="utf-8")
    with pytest.raises(ForecastError, match="move it away") as caught:
        look(home, "noise")
    assert caught.value.code == "study.rows_unreadable"
