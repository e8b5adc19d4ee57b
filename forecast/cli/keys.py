"""Commands about API keys: create one, list them, revoke one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from forecast.cli.options import HomeOption, JsonOption, open_installation
from forecast.cli.output import ERR, OUT, print_json
from forecast.clock import SystemClock
from forecast.errors import ConfigError
from forecast.ledger.keys import Key, Scope, mint
from forecast.vocabulary import parse_duration

keys_app = typer.Typer(name="keys", help="Create, list and revoke keys of the REST API.", no_args_is_help=True)

_LONGEST_NAME = 80


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Owner or purpose of the key.")],
    scope: Annotated[Scope, typer.Option(help="Each scope includes the scopes before it.")] = Scope.READ,
    dataset: Annotated[list[str] | None, typer.Option(help="Restrict the key to a data set; may be repeated.")] = None,
    expires: Annotated[
        str | None, typer.Option(help='Lifetime, such as "90d". Default: the key never expires.')
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key and show it once: only its digest is stored."""
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            "key.name",
            f"a key's name has 1 to {_LONGEST_NAME} printable characters",
            "name the owner or the purpose of the key",
        )
    installation = open_installation(home)
    datasets = tuple(dict.fromkeys(installation.dataset(one).name for one in dataset or ()))
    now = SystemClock().now()
    key_id, text, digest = mint()
    key = Key(key_id, name, digest, scope, datasets, now, now + parse_duration(expires) if expires else None)
    installation.ledger.keys.add(key)
    if as_json:
        print_json(_document(key, now) | {"key": text})
        return
    OUT.print(text, markup=False, highlight=False, soft_wrap=True)
    ERR.print(f"created key {key_id}; it is not shown again. Send it as: Authorization: Bearer KEY", soft_wrap=True)


@keys_app.command(name="list")
def list_keys(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List all keys, including expired and revoked ones. The keys themselves are not shown."""
    now = SystemClock().now()
    found = open_installation(home).ledger.keys.all()
    if as_json:
        print_json([_document(key, now) for key in found])
        return
    table = Table("id", "name", "scope", "data sets", "created", "expires", "state", box=None)
    for key in found:
        table.add_row(
            key.key_id, escape(key.name), str(key.scope), ", ".join(key.datasets) or "all",
            f"{key.created_at:%Y-%m-%d %H:%M}", f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "never",
            key.state(now),
        )  # fmt: skip
    OUT.print(table if found else "there are no keys: every client that reaches the service has full access")


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help='Id of the key, as shown by "forecast keys list".')],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key. A running service rejects it within seconds."""
    now = SystemClock().now()
    key = open_installation(home).ledger.keys.revoke(key_id, now)
    if as_json:
        print_json(_document(key, now))
    else:
        OUT.print(f"revoked key {key.key_id} ({key.name})", markup=False)


def _document(key: Key, now: datetime) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scope": str(key.scope),
        "datasets": list(key.datasets),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "state": key.state(now),
    }
