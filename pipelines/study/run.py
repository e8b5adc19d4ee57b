"""Study of robustness and sensitivity of models on the user's own data: many small trainings, one report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import polars as pl
from filelock import FileLock, Timeout

from forecast.errors import ConfigError, ConflictError, DataError, StorageError, TrainingError, first_line, nearest
from forecast.installation import Dataset
from forecast.plots.charts import page
from forecast.progress import Reporter
from forecast.tracking.registry import Registry
from forecast.tracking.runs import TrackedNight
from models.catalog import TRAINABLE, ModelName
from pipelines.preparation.training_data import TrainingData
from pipelines.search.deadline import Limited, TimeIsOverError
from pipelines.study.plan import Question, Setting, StudyCell, points
from pipelines.study.report import Answer, answer, figures, markdown
from pipelines.study.scores import Bench, keep_rows, read_rows, score_cell
from pipelines.tracking.log import code_version

Stopped: TypeAlias = Literal["done", "minutes", "interrupted"]
Word = TypeVar("Word", ModelName, Question)


@dataclass(frozen=True, slots=True)
class Study:
    """Result of a study."""

    dataset: str
    answers: tuple[Answer, ...]
    """One per question."""
    failures: dict[str, str]
    """Reasons of failed cells, by title."""
    missing: tuple[str, ...]
    """Titles of cells left for the next study."""
    stopped: Stopped
    report: str
    """Path of the page with all figures."""
    rows: str
    """Path of the table of all numbers."""
    tracking_run: str


def study(
    dataset: Dataset,
    reporter: Reporter,
    *,
    models: Sequence[str] = (),
    questions: Sequence[str] = (),
    minutes: float | None = None,
) -> Study:
    """Train and score the cells of the questions, and write a report of all scores so far.

    Cells already scored on the same data and settings are not trained again. Default ``models`` are those that a night
    compares, default ``questions`` are all. Ctrl-C ends the study like the end of its ``minutes``.

    Raises ``model.unknown``, ``study.unknown_question``, ``study.no_time`` and ``study.running``.
    """
    if minutes is not None and not minutes > 0:
        raise ConfigError("study.no_time", f"a study cannot take {minutes:g} minutes", "give --minutes above 0")
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    asked = [_known(word, Question, "study.unknown_question", "question") for word in questions or Question]
    config = dataset.config
    usual = [word for word in config.candidates if word in set(TRAINABLE)]
    chosen = [_known(word, TRAINABLE, "model.unknown", "model") for word in models or usual]
    try:
        with FileLock(dataset.home.locks / f"{dataset.name}.study.lock", timeout=0):
            history = TrainingData.read(dataset)
            plan = [point for question in asked for model in chosen for point in points(question, model, config)]
            return _Work(dataset, history, reporter, deadline, plan).run()
    except Timeout as error:
        raise ConflictError(
            "study.running", f"{dataset.name} is being studied already", "wait until that study ends"
        ) from error


def _known(word: str, among: Iterable[Word], code: str, what: str) -> Word:
    names = {str(one): one for one in among}
    if word not in names:
        raise ConfigError(code, f'{what} "{word}" cannot be studied', nearest(word, names))
    return names[word]


@dataclass(frozen=True, slots=True)
class _Work:
    dataset: Dataset
    history: TrainingData
    reporter: Reporter
    deadline: float
    plan: Sequence[Setting]

    def run(self) -> Study:
        name, home = self.dataset.name, self.dataset.home
        file, report = home.reports / f"{name}-study.csv", home.reports / f"{name}-study.html"
        kept, bench = read_rows(file), Bench.of(self.history)
        now = self.dataset.clock.now()
        failures: dict[str, str] = {}
        stopped: Stopped = "done"
        tags = {
            "data_version": self.history.version, "data_digest": self.history.digest, "code_version": code_version(),
        }  # fmt: skip
        with Registry(home).night(name, f"study {now:%Y-%m-%d %H:%M}", tags, "study") as night:
            try:
                for cell in self._left(kept):
                    kept = self._scored(cell, bench, now, file, kept, failures)
            except TimeIsOverError:
                stopped = "minutes"
            except KeyboardInterrupt:
                stopped = "interrupted"
            found = [one for question in Question if (one := answer(question, self.plan, self.history, kept))]
            self._report(night, report, found, kept)
        left = tuple(cell.title for cell in self._left(kept) if cell.title not in failures)
        return Study(name, tuple(found), failures, left, stopped, str(report), str(file), night.run_id)

    def _left(self, kept: pl.DataFrame) -> list[StudyCell]:
        """Return the cells without rows; first those of the config's own options, which most points need."""
        done = set(kept["cell"])
        cells = dict.fromkeys(point.cell for point in self.plan)
        left = [cell for cell in cells if cell.key(self.history) not in done]
        return sorted(left, key=lambda cell: not cell.is_present)

    def _scored(
        self, cell: StudyCell, bench: Bench, now: datetime, file: Path, kept: pl.DataFrame, failures: dict[str, str]
    ) -> pl.DataFrame:
        """Score a cell and store its rows; a failure is recorded and does not end the study."""
        if time.monotonic() >= self.deadline:
            raise TimeIsOverError
        checkpoints = self.dataset.home.checkpoints / f"{self.dataset.name}.study"
        try:
            with self.reporter.step(cell.title) as step:
                rows = score_cell(cell, bench, checkpoints, now, Limited(step, self.deadline))
        except (TrainingError, DataError, RuntimeError) as error:
            failures[cell.title] = f"[{getattr(error, 'code', 'training.failed')}] {first_line(error)}"
            return kept
        every = pl.concat([kept, rows])
        keep_rows(file, every)
        return every

    def _report(self, night: TrackedNight, report: Path, found: Sequence[Answer], kept: pl.DataFrame) -> None:
        """Write the report, and log it to MLflow."""
        models = list(dict.fromkeys(str(point.cell.model) for point in self.plan))
        drawn = [(name, figure) for one in found for name, figure in figures(one, models)]
        content = page([figure for _, figure in drawn], f"Study of forecasting models on {self.dataset.name}")
        try:
            report.write_text(content, encoding="utf-8")
        except OSError as error:
            raise StorageError(
                "study.report_not_written", f'cannot write "{report}" ({error.strerror})', "free disk space"
            ) from error
        for name, figure in drawn:
            night.figure(figure, f"figures/{name}.html")
        night.file(content, report.name)
        night.note("\n\n".join(markdown(one) for one in found))
        asked = {point.cell.key(self.history) for point in self.plan}
        ours = kept.filter(pl.col("cell").is_in(list(asked)))
        if len(ours):
            night.table(ours.to_dict(as_series=False), "rows.json")
