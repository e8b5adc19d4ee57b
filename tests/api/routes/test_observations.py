from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from api.requests.bodies import LARGEST

if TYPE_CHECKING:
    import httpx

    from forecast.installation import Installation

PUSH, DRY = "/v1/datasets/tiny/observations", "/v1/datasets/tiny/validate"


@pytest.fixture
def client(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    serve: Callable[[Installation], httpx.Client],
) -> httpx.Client:
    tiny_document["datasets"]["tiny"]["source"] = {"kind": "push"}
    return serve(make_home(document=tiny_document))


@pytest.fixture
def records(tiny_rows: Callable[..., pl.DataFrame]) -> list[dict[str, Any]]:
    rows = tiny_rows(48).with_columns(pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S"))
    return rows.to_dicts()


def test_rows_that_are_pushed_are_in_and_pushing_them_again_changes_nothing(
    client: httpx.Client, records: list[dict[str, Any]]
) -> None:
    first = client.post(PUSH, json=records)
    assert first.status_code == 200, first.text
    assert (first.json()["new"], first.json()["data_version"]) == (96, 0)
    again = client.post(PUSH, json=records).json()
    assert (again["new"], again["changed"], again["unchanged"], again["data_version"]) == (0, 0, 96, 0)
    described = client.get("/v1/datasets/tiny").json()
    assert (described["series"], described["newest_row"]) == (["east", "west"], "2024-01-02T23:00:00Z")


@pytest.mark.parametrize("media", ["text/csv", "application/x-ndjson", "application/vnd.apache.parquet"])
def test_rows_may_be_pushed_in_several_formats(
    client: httpx.Client, tiny_rows: Callable[..., pl.DataFrame], media: str, tmp_path: Any
) -> None:
    rows, file = tiny_rows(24), tmp_path / "rows"
    {"text/csv": rows.write_csv, "application/x-ndjson": rows.write_ndjson}.get(media, rows.write_parquet)(file)
    answer = client.post(PUSH, content=file.read_bytes(), headers={"content-type": media})
    assert answer.status_code == 200, answer.text
    assert answer.json()["new"] == 48


def test_a_compressed_body_is_read(client: httpx.Client, records: list[dict[str, Any]]) -> None:
    body = gzip.compress(json.dumps(records).encode(), mtime=0)
    answer = client.post(PUSH, content=body, headers={"content-type": "application/json", "content-encoding": "gzip"})
    assert answer.json()["new"] == 96


def test_a_dry_run_answers_the_receipt_and_writes_nothing(client: httpx.Client, records: list[dict[str, Any]]) -> None:
    answer = client.post(DRY, json=[*records, {**records[0], "load": "secret"}])
    assert answer.status_code == 200, answer.text
    assert (answer.json()["rows"], answer.json()["quarantined"], answer.json()["data_version"]) == (96, 1, None)
    assert client.get("/v1/datasets/tiny").json()["data_version"] is None
    assert client.get("/v1/datasets/tiny/receipts").json() == []


def test_an_invalid_row_is_quarantined_and_reported_without_repeating_it(
    client: httpx.Client, records: list[dict[str, Any]]
) -> None:
    answer = client.post(PUSH, json=[{**records[0], "load": "secret"}, *records[1:]])
    receipt = answer.json()
    assert (receipt["rows"], receipt["quarantined"]) == (95, 1)
    finding = receipt["findings"][0]
    assert finding["told"] == finding["message"]  # deprecated
    assert (finding["code"], finding["action"], finding["count"]) == ("ingest.not_a_number", "quarantine", 1)
    assert "row 1" in finding["first"][0]
    assert "secret" not in answer.text
    kept = client.get("/v1/datasets/tiny/receipts").json()
    assert [item["digest"] for item in kept] == [receipt["digest"]]


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"[]", {"content-type": "application/xml"}, 422, None),
        (b"[]", {}, 422, None),
        (b"{", {"content-type": "application/json"}, 422, None),
        (b"[]", {"content-type": "application/json"}, 422, None),
        (b'[{"time": NaN}]', {"content-type": "application/json"}, 422, None),
        (b'"\\ud800"', {"content-type": "application/json"}, 422, None),
        (b"[" * 100_000, {"content-type": "application/json"}, 422, None),
        (b"PAR1", {"content-type": "application/vnd.apache.parquet"}, 422, None),
        (b"time,site\n", {"content-type": "text/csv"}, 422, "ingest.missing_column"),
        (b"x", {"content-type": "text/csv", "content-encoding": "br"}, 415, "body.encoding"),
        (b"x", {"content-type": "text/csv", "content-encoding": "gzip"}, 415, "body.encoding"),
        (
            gzip.compress(b"x", mtime=0)[:-4],  # a time in it would name the test otherwise in each worker
            {"content-type": "text/csv", "content-encoding": "gzip"},
            415,
            "body.encoding",
        ),
        (
            gzip.compress(bytes(LARGEST + 1), 1, mtime=0),
            {"content-type": "text/csv", "content-encoding": "gzip"},
            413,
            "body.too_large",
        ),
    ],
)
def test_a_body_that_cannot_be_read_is_a_problem_document(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, code: str | None
) -> None:
    answer = client.post(PUSH, content=content, headers=headers)
    assert answer.status_code in {status, 415}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert code is None or answer.json()["code"] == code


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=10) as connection:
        head = f"POST {PUSH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: {10**9}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]


def test_a_body_without_an_announced_length_is_refused_as_soon_as_it_is_too_large(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 10 * LARGEST:
            sent += 2**20
            yield b"x" * 2**20

    try:
        answer = client.post(PUSH, content=endless(), headers={"content-type": "text/csv"})
    except Exception:  # noqa: BLE001  # the server may close the connection before the client has sent all
        answer = None
    assert answer is None or answer.status_code == 413
    assert sent < 4 * LARGEST


@pytest.mark.parametrize(
    ("origin", "is_taken"),
    [(None, True), ("own", True), ("http://evil.example", False), ("http://localhost:1", False), ("null", False)],
)
def test_a_page_of_another_site_cannot_write(
    client: httpx.Client, records: list[dict[str, Any]], origin: str | None, *, is_taken: bool
) -> None:
    own = f"http://{client.base_url.host}:{client.base_url.port}"
    headers = {} if origin is None else {"origin": own if origin == "own" else origin}
    answer = client.post(PUSH, json=records, headers=headers)
    assert answer.status_code == (200 if is_taken else 403)
    assert is_taken or answer.json()["code"] == "origin.foreign"


def test_a_parameter_that_does_nothing_is_refused(client: httpx.Client, records: list[dict[str, Any]]) -> None:
    answer = client.post(PUSH, params={"dry": "1"}, json=records)
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter.unknown")


def test_a_data_set_that_does_not_exist_takes_no_rows(client: httpx.Client) -> None:
    answer = client.post("/v1/datasets/tinny/observations", json=[])
    assert (answer.status_code, answer.json()["code"]) == (404, "dataset.unknown")
