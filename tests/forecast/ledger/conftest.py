"""Both databases that a ledger may be kept in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from forecast.ledger import Ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    found: sa.URL = request.getfixturevalue("postgresql")
    engine = sa.create_engine(found)
    with engine.begin() as connection:
        connection.exec_driver_sql("drop schema public cascade; create schema public")
    engine.dispose()
    return found.render_as_string(hide_password=False)


@pytest.fixture
def at_once(url: str) -> Callable[..., list[Any]]:
    """Do something in eight threads at once, each with a ledger of its own."""

    def act(work: Callable[[Ledger, int], Any]) -> list[Any]:
        def one(number: int) -> Any:
            with Ledger.open(url) as own:
                return work(own, number)

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, range(8)))

    return act
