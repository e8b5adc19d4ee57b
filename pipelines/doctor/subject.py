"""The installation under examination, each part opened on first use."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from forecast.config.file import ConfigFile, load_config_file
from forecast.home import Home, find_home
from forecast.installation import Installation
from forecast.ledger import Ledger


class Subject:
    """An installation that may be broken anywhere: the first check that needs a part opens it.

    >>> with Subject(Path("no-such-folder")) as subject:  # opens nothing yet
    ...     subject.port
    8000
    """

    def __init__(self, given: Path | None, *, deep: bool = False, port: int = 8000, ui_port: int = 5000) -> None:
        self._given = given
        self._open = ExitStack()
        self.deep = deep
        self.port = port
        self.ui_port = ui_port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def home(self) -> Home:
        """The home folder."""
        return find_home(self._given)

    @cached_property
    def config(self) -> ConfigFile:
        """The config file."""
        return load_config_file(self.home.config_file)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, opened as commands do."""
        return self._open.enter_context(Ledger.open(self.home.ledger_url))

    @cached_property
    def installation(self) -> Installation:
        """Home, config and ledger together."""
        return Installation(self.home, self.config, self.ledger)
