from __future__ import annotations

import json
from typing import TYPE_CHECKING

from forecast.ledger.keys import Scope, digest_of, id_in

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from forecast.installation import Installation


def test_a_key_is_made_shown_once_listed_and_revoked(
    tiny_home: Installation, command_line: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    home = ("--home", tiny_home.home.path)
    none = command_line("keys", "list", *home)
    assert "there are no keys" in none.stdout
    made = command_line(
        "keys", "create", "the [b]dashboard[/b]", "--scope", "write", "--dataset", "tiny", "--expires", "90d", *home
    )
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    key = tiny_home.ledger.keys.all()[0]
    assert (key.key_id, key.digest, key.scope, key.datasets) == (id_in(text), digest_of(text), Scope.WRITE, ("tiny",))
    assert key.expires_at is not None
    listed = command_line("keys", "list", "--json", *home)
    assert text not in listed.stdout
    assert key.digest not in listed.stdout
    assert [item["state"] for item in json.loads(listed.stdout)] == ["valid"]
    assert "the [b]dashboard[/b]" in command_line("keys", "list", *home).stdout
    assert command_line("keys", "revoke", key.key_id, *home).returncode == 0
    assert [item["state"] for item in json.loads(command_line("keys", "list", "--json", *home).stdout)] == ["revoked"]


def test_a_key_that_cannot_be_meant_is_refused(
    tiny_home: Installation, command_line: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    home = ("--home", tiny_home.home.path)
    for arguments, code in (
        (("create", "x", "--dataset", "tinny"), "dataset.unknown"),
        (("create", "x", "--expires", "soon"), "duration.malformed"),
        (("create", "x" * 81), "key.name"),
        (("revoke", "nothing"), "key.not_found"),
    ):
        refused = command_line("keys", *arguments, *home)
        assert refused.returncode in {2, 3}
        assert code in refused.stderr
    assert tiny_home.ledger.keys.all() == []
