from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from forecast.errors import NotFoundError
from forecast.ledger import Ledger
from forecast.ledger.keys import LONGEST, Key, Scope, digest_of, id_in, mint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


def a_key(**fields: object) -> Key:
    key_id, _, digest = mint()
    values = {"name": "ops", "scope": Scope.READ, "datasets": ("tiny",), "created_at": NOW, "expires_at": None}
    return Key(**{"key_id": key_id, "digest": digest} | values | fields)  # type: ignore[arg-type]


def test_a_key_is_kept_as_it_was_made(ledger: Ledger) -> None:
    keys = [a_key(), a_key(scope=Scope.ADMIN, datasets=(), expires_at=NOW + timedelta(days=1))]
    for key in keys:
        ledger.keys.add(key)
    assert sorted(ledger.keys.all(), key=lambda key: key.scope.rank) == keys


def test_a_revoked_key_stays_known_and_is_revoked_once(ledger: Ledger) -> None:
    key = a_key()
    ledger.keys.add(key)
    first = ledger.keys.revoke(key.key_id, NOW)
    again = ledger.keys.revoke(key.key_id, NOW + timedelta(days=1))
    assert first == again == ledger.keys.all()[0]
    assert (first.revoked_at, first.is_valid(NOW), first.state(NOW)) == (NOW, False, "revoked")
    with pytest.raises(NotFoundError) as refused:
        ledger.keys.revoke("nothing", NOW)
    assert refused.value.code == "key.not_found"


def test_a_key_is_valid_until_it_expires() -> None:
    key = a_key(expires_at=NOW)
    assert key.is_valid(NOW - timedelta(microseconds=1))
    assert not key.is_valid(NOW)
    assert key.state(NOW) == "expired"


def test_every_key_is_another_and_tells_its_id() -> None:
    made = [mint() for _ in range(100)]
    assert len({text for _, text, _ in made}) == len({key_id for key_id, _, _ in made}) == 100
    for key_id, text, digest in made:
        assert (id_in(text), digest_of(text), len(text)) == (key_id, digest, LONGEST)
        assert text.startswith("fck_")


@pytest.mark.parametrize("text", ["", "fck_", "fck_0123456789ab_", "fck_0123456789ab_" + "x" * 44, "fck_\n", "é" * 60])
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert id_in(text) is None


def test_a_scope_implies_those_below_it() -> None:
    implied = {(str(one), str(other)) for one in Scope for other in Scope if one.implies(other)}
    assert implied == {
        ("read", "read"), ("write", "read"), ("write", "write"),
        ("admin", "read"), ("admin", "write"), ("admin", "admin"),
    }  # fmt: skip
