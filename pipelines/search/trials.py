"""Trials of a model's options on one state of a data set, stored by Optuna in the ledger's database."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import optuna
import sqlalchemy as sa
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from forecast.errors import StorageError, first_line
from forecast.installation import Dataset
from models.catalog import ModelName
from models.search_spaces import Number, OneOf, Option, Space, Whole, options_of, point_of, space_of
from pipelines.preparation.training_data import TrainingData

optuna.logging.set_verbosity(optuna.logging.ERROR)

_BUSY_SECONDS = 10
_STARTUP_TRIALS = 6
"""Random trials before the sampler starts to learn; few, because a budget in minutes allows few trials."""
_COMPARED_TRIALS = 4
"""Complete trials before any trial is pruned."""
_IMPORTANCE_TRIALS = 8
"""Complete trials with different losses before importances are computed."""
_WARMUP_EPOCHS = 2
_ATTEMPTS = 2
"""Maximum number of attempts at a trial that killed its process."""
_CUT_OFF = "cut off"
_STATES: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial, for display."""

    number: int
    """Counted from 1."""
    state: str
    """``complete``, ``pruned`` for its losses, ``failed``, ``cut off`` (and tried again), ``running``, ``waiting``."""
    loss: float | None
    """Lowest validation loss of its epochs; ``None`` before the first."""
    options: Mapping[str, Option]
    losses: tuple[float, ...]
    """By epoch, on the validation slice."""
    seconds: float
    reason: str
    """Reason of a failed or pruned trial; empty for others."""


class TrialAttempt:
    """A running trial."""

    def __init__(self, trial: optuna.Trial, options: Mapping[str, Option]) -> None:
        self.number = trial.number + 1
        self.options = options
        self.trial = trial
        self._reported: set[int] = set()

    def report(self, epoch: int, loss: float) -> None:
        """Report the validation loss of an epoch, counted from 1; repeated reports are ignored."""
        if epoch not in self._reported and math.isfinite(loss):
            self._reported.add(epoch)
            with _translated_errors():
                self.trial.report(loss, epoch)

    @property
    def is_poor(self) -> bool:
        """Whether the trial should be pruned: its losses are worse than the median of other trials."""
        with _translated_errors():
            return self.trial.should_prune()


class Trials:
    """Past trials of a study, and the choice of the next one."""

    def __init__(self, study: optuna.Study, model: ModelName, space: Space, present: Mapping[str, Option]) -> None:
        self._study = study
        self._model = model
        self._space = space
        self._present = present

    @classmethod
    def open(cls, history: TrainingData, dataset: Dataset, model: ModelName) -> Self:
        """Open the trials of a model on one state of the data; the caller must hold the model's tuning lock.

        New data starts a new study: its first trials are the config's own options and the best ones of the last study.
        An interrupted trial is tried again. Raises ``ledger.failed`` if the database is not usable.
        """
        # The lock keeps two processes from creating Optuna's tables at the same time.
        with _translated_errors(), FileLock(dataset.home.locks / "tuning.lock"):
            config = history.config
            storage = _storage(dataset.home.ledger_url)
            space = space_of(model, config.lookback)
            inputs = (history.terms, config.lookback, sorted(space.items()))
            series = f"{history.name}/{model}/"
            title = series + hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]
            earlier = [
                one
                for one in optuna.get_all_study_summaries(storage)
                if one.study_name.startswith(series) and one.datetime_start
            ]
            study = optuna.create_study(storage=storage, study_name=title, load_if_exists=True)
            count = len(study.get_trials(deepcopy=False))
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=_STARTUP_TRIALS, seed=config.training.seed + count
            )
            study.pruner = optuna.pruners.MedianPruner(_COMPARED_TRIALS, _WARMUP_EPOCHS, n_min_trials=_COMPARED_TRIALS)
            trials = cls(study, model, space, config.options.get(model, {}))
            trials._requeue_interrupted()
            if not count:
                trials._inherit(storage, earlier)
        return trials

    @property
    def title(self) -> str:
        """Name of the study: data set, model, and a digest of all that makes losses comparable."""
        return self._study.study_name

    def next(self) -> TrialAttempt:
        """Start the next trial: a waiting one, else one proposed by the sampler."""
        with _translated_errors():
            trial = self._study.ask()
            given = trial.user_attrs.get("options")
            if given is None:
                point = {name: _drawn(trial, name, self._space) for name in self._space}
                options = {**self._present, **options_of(self._space, point)}
                trial.set_user_attr("options", options)
            else:
                options = given
                for name in point_of(self._model, self._space, options):  # so that the sampler learns from it
                    _drawn(trial, name, self._space)
        return TrialAttempt(trial, options)

    def complete(self, attempt: TrialAttempt, loss: float, seconds: float, losses: Sequence[float]) -> None:
        """Close a trial with its best validation loss; ``losses`` has the losses of all epochs."""
        for epoch, one in enumerate(losses, 1):
            attempt.report(epoch, one)
        self._close(attempt, TrialState.COMPLETE, seconds, value=loss)

    def prune(self, attempt: TrialAttempt, seconds: float, reason: str) -> None:
        """Close a pruned trial."""
        self._close(attempt, TrialState.PRUNED, seconds, reason)

    def fail(self, attempt: TrialAttempt, seconds: float, reason: str) -> None:
        """Close a failed trial."""
        self._close(attempt, TrialState.FAIL, seconds, reason)

    def put_back(self, attempt: TrialAttempt, seconds: float) -> None:
        """Close an interrupted trial and enqueue its options as the next trial."""
        self.fail(attempt, seconds, _CUT_OFF)
        with _translated_errors():
            self._enqueue(attempt.options)

    def rows(self) -> list[TrialRow]:
        """Return all trials in their order."""
        with _translated_errors():
            return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def importance(self) -> dict[str, float]:
        """Return the importance of each option for the loss, largest first; empty with too few trials."""
        with _translated_errors():
            complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if len({trial.value for trial in complete}) < _IMPORTANCE_TRIALS:
                return {}
        with _translated_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's advice to run more trials
            return {name: float(share) for name, share in optuna.importance.get_param_importances(self._study).items()}

    def _close(
        self, attempt: TrialAttempt, state: TrialState, seconds: float, reason: str = "", *, value: float | None = None
    ) -> None:
        with _translated_errors():
            attempt.trial.set_user_attr("seconds", seconds)
            attempt.trial.set_user_attr("reason", reason)
            self._study.tell(attempt.trial, value, state)

    def _requeue_interrupted(self) -> None:
        """Enqueue trials of a killed process again, and the config's own options if they were never tried."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
                attempts = trial.user_attrs.get("attempts", 1)
                if "options" in trial.user_attrs and attempts < _ATTEMPTS:
                    self._enqueue(trial.user_attrs["options"], attempts + 1)
        if self._present not in [trial.user_attrs.get("options") for trial in trials]:
            self._enqueue(self._present)

    def _inherit(self, storage: optuna.storages.BaseStorage, earlier: Sequence[Any]) -> None:
        newest = max(earlier, key=lambda one: one.datetime_start, default=None)
        if newest is None:
            return
        found = optuna.load_study(storage=storage, study_name=newest.study_name)
        complete = found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        best = min(complete, key=lambda trial: float(trial.value or 0.0), default=None)
        if best is not None and best.user_attrs["options"] != self._present:
            self._enqueue(best.user_attrs["options"])

    def _enqueue(self, options: Mapping[str, Option], attempts: int = 1) -> None:
        point = point_of(self._model, self._space, options)
        self._study.enqueue_trial(point, {"options": dict(options), "attempts": attempts})


def _storage(url: str) -> optuna.storages.RDBStorage:
    waiting = {"timeout": _BUSY_SECONDS} if url.startswith("sqlite") else {}
    arguments = {
        "connect_args": waiting,
        "poolclass": sa.NullPool,
    }  # a pool would stay open: nothing marks the last trial
    literal = url.replace("{", "{{").replace("}", "}}")  # Optuna formats URLs as templates
    return optuna.storages.RDBStorage(literal, arguments)


def _drawn(trial: optuna.Trial, name: str, space: Space) -> Option:
    drawn: Any
    match space[name]:
        case Number(low, high, log):
            drawn = trial.suggest_float(name, low, high, log=log)
        case Whole(low, high):
            drawn = trial.suggest_int(name, low, high)
        case OneOf(values):
            drawn = trial.suggest_categorical(name, values)
    return cast("Option", drawn)


def _row(trial: FrozenTrial) -> TrialRow:
    # A killed process leaves a failed trial without a reason.
    reason = trial.user_attrs.get("reason", _CUT_OFF if trial.state is TrialState.FAIL else "")
    losses = tuple(trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values))
    return TrialRow(
        number=trial.number + 1,
        state=_CUT_OFF if reason == _CUT_OFF else _STATES[trial.state],
        loss=trial.value if trial.state is TrialState.COMPLETE else min(losses, default=None),
        options=trial.user_attrs.get("options", {}),
        losses=losses,
        seconds=trial.user_attrs.get("seconds", 0.0),
        reason=reason,
    )


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = first_line(getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error)
        raise StorageError(
            "ledger.failed", f"the ledger is not usable ({reason})", "check FORECAST_LEDGER_URL and the disk"
        ) from error
