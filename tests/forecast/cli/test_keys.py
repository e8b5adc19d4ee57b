from __future__ import annotations

import json
from typing import TYPE_CHECKING

from forecast.ledger.keys import Scope, digest_of, id_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.installation import Installation


def test_a_key_is_made_shown_once_listed_and_revoked(
    tiny_home: Installation, run: Callable[..., tuple[int, str, str]]
) -> None:
    home = ("--home", tiny_home.home.path)
    assert "there are no keys" in run("keys", "list", *home)[1]
    exit_code, made, err = run(
        "keys", "create", "the [b]dashboard[/b]", "--scope", "write", "--dataset", "tiny", "--expires", "90d", *home
    )
    assert exit_code == 0, err
    text = made.strip()
    key = tiny_home.ledger.keys.all()[0]
    assert (key.key_id, key.digest, key.scope, key.datasets) == (id_in(text), digest_of(text), Scope.WRITE, ("tiny",))
    assert key.expires_at is not None
    listed = run("keys", "list", "--json", *home)[1]
    assert text not in listed
    assert key.digest not in listed
    assert [item["state"] for item in json.loads(listed)] == ["valid"]
    assert "the [b]dashboard[/b]" in run("keys", "list", *home)[1]
    assert run("keys", "revoke", key.key_id, *home)[0] == 0
    assert [item["state"] for item in json.loads(run("keys", "list", "--json", *home)[1])] == ["revoked"]


def test_a_key_that_cannot_be_meant_is_refused(
    tiny_home: Installation, run: Callable[..., tuple[int, str, str]]
) -> None:
    home = ("--home", tiny_home.home.path)
    for arguments, code in (
        (("create", "x", "--dataset", "tinny"), "dataset.unknown"),
        (("create", "x", "--expires", "soon"), "duration.malformed"),
        (("create", "x" * 81), "key.name"),
        (("revoke", "nothing"), "key.not_found"),
    ):
        exit_code, _, err = run("keys", *arguments, *home)
        assert exit_code in {2, 3}
        assert code in err
    assert tiny_home.ledger.keys.all() == []
