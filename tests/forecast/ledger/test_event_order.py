"""In PostgreSQL too, events become visible in the order of their numbers: whoever follows steps over none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa

from forecast.ledger import Ledger
from forecast.ledger.champions import Champion
from forecast.ledger.events import publish

NOW = datetime(2024, 5, 1, tzinfo=UTC)


def test_no_event_becomes_visible_before_one_with_a_smaller_number(
    postgresql: sa.URL, wait_until: Callable[..., None]
) -> None:
    url = postgresql.render_as_string(hide_password=False)
    champion = Champion("tiny", "linear", "linear-1", "linear-1", "digest", NOW, "first")
    with Ledger.open(url) as ledger:
        known = ledger.events.last()
        second = threading.Thread(target=ledger.champions.promote, args=(champion,))

        def waits() -> bool:
            with ledger._database.transaction() as connection:
                locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                return connection.exec_driver_sql(locks).scalar_one() == 1

        with ledger._database.transaction() as connection:
            publish(connection, "alert", "tiny", NOW, {})
            second.start()
            wait_until(waits)
            assert ledger.events.after(known) == []
        second.join(timeout=30)
        assert [event.kind for event in ledger.events.after(known)] == ["alert", "promotion"]
