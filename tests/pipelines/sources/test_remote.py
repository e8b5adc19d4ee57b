from __future__ import annotations

import contextlib
import gzip
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import polars as pl
import pytest

from forecast.errors import ForecastError
from pipelines.sources import Batch, Unreadable
from pipelines.sources.remote import without_secrets

ReadAll = Callable[..., list[Batch | Unreadable]]
Read = Callable[..., Batch]
Refuse = Callable[..., ForecastError]
FRAME = pl.DataFrame(
    {"time": ["t1", "t2"], "site": ["a", "b"], "load": [1.0, 2.0], "price": [1.0, 2.0], "wind": [1.0, 2.0]}
)
CSV = FRAME.write_csv().encode()
KEY = "token=hunter2"


def parquet() -> bytes:
    buffer = io.BytesIO()
    FRAME.write_parquet(buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Page:
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    goes_on: bool = False


PAGES = {
    "/rows.csv": Page(CSV),
    "/B%C3%B6rse.csv": Page(CSV),
    "/rows.parquet": Page(parquet()),
    "/packed.csv.gz": Page(gzip.compress(CSV)),
    "/moved": Page(status=302, headers={"Location": "/rows.csv"}),
    "/to-a-file": Page(status=302, headers={"Location": "file:///etc/hostname"}),
    "/forbidden": Page(status=403),
    "/broken": Page(status=500),
    "/cut": Page(CSV, headers={"Content-Length": str(len(CSV) + 20)}),
    "/stalls": Page(CSV, headers={"Content-Length": str(len(CSV) + 20)}, goes_on=True),
    "/announced": Page(headers={"Content-Length": "1000000000"}, goes_on=True),
    "/drips": Page(headers={"Connection": "close"}, goes_on=True),
    "/endless": Page(bytes(1 << 20), headers={"Connection": "close"}, goes_on=True),
    "/page": Page(b"<html>\n<body>please sign in</body></html>\n"),
}


class Web(BaseHTTPRequestHandler):
    """Pages that behave and pages that do not."""

    over: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:  # the name that http.server looks for
        path = self.path.partition("?")[0]
        page = PAGES.get(path, Page(status=404))
        self.send_response(page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if not page.headers:
            self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the reader has had enough
            self.wfile.write(page.body)
            while page.goes_on and not self.over.wait(0.01 if path == "/drips" else 0):
                self.wfile.write({"/drips": b"x", "/endless": page.body}.get(path, b""))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Web.over.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("csv", "/rows.csv", "rows.csv"),
        ("csv", f"/rows.csv?day=*&{KEY}", "rows.csv"),
        ("csv", "/B%C3%B6rse.csv", "Börse.csv"),
        ("csv", "/packed.csv.gz", "packed.csv.gz"),
        ("csv", "/moved", "moved"),
        ("parquet", "/rows.parquet", "rows.parquet"),
    ],
)
def test_a_file_of_the_web_is_read_as_a_local_one(web: str, read_one: Read, kind: str, path: str, name: str) -> None:
    batch = read_one({"kind": kind, "path": web + path})
    assert batch.name == name
    assert batch.rows.rows() == [(1, "a", "t1", 1.0, 1.0, 1.0), (2, "b", "t2", 2.0, 2.0, 2.0)]


@pytest.mark.parametrize(
    ("path", "code", "fact"),
    [
        ("/none.csv", "source.not_found", "does not exist"),
        ("/forbidden", "source.not_fetched", "(status 403)"),
        ("/broken", "source.not_fetched", "(status 500)"),
        ("/cut", "source.not_fetched", "cannot download"),
        ("/to-a-file", "source.not_fetched", "Redirect"),
        ("/stalls", "source.timeout", "was not downloaded within 1s"),
        ("/drips", "source.timeout", "was not downloaded within 1s"),
        ("/announced", "source.too_large", "is larger than 3000000 bytes"),
        ("/endless", "source.too_large", "is larger than 3000000 bytes"),
        ("/page", "ingest.missing_column", 'has no column "time"'),
    ],
)
def test_what_the_web_refuses_is_named_and_no_key_with_it(
    web: str, refusal: Refuse, path: str, code: str, fact: str
) -> None:
    error = refusal({"kind": "csv", "path": f"{web}{path}?{KEY}", "timeout": "1s", "max_bytes": 3_000_000})
    assert (error.code, fact in str(error)) == (code, True), str(error)
    assert "hunter2" not in str(error)


def test_a_host_that_is_not_there_is_named(refusal: Refuse) -> None:
    error = refusal({"kind": "csv", "path": f"http://me:{KEY}@127.0.0.1:1/rows.csv?{KEY}"})
    assert (error.code, '"http://127.0.0.1:1/rows.csv"' in str(error)) == ("source.not_fetched", True)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gs"), ("az", "az")])
def test_a_store_whose_client_is_missing_names_what_to_install(
    refusal: Refuse, monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str
) -> None:
    for client in ("gcsfs", "adlfs"):
        monkeypatch.setitem(__import__("sys").modules, client, None)
    error = refusal({"kind": "parquet", "path": f"{scheme}://box/rows.parquet"})
    assert (error.code, f'pip install "forecast-service[{extra}]"' in str(error)) == ("source.extra_missing", True)


def test_addresses_are_shown_without_secrets() -> None:
    assert without_secrets(f"https://me:pass@host:1/a/b?{KEY}#x") == "https://host:1/a/b"


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """An S3 that speaks the real protocol, and a client that fills it."""
    moto, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()  # or it would ask another test's server
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "someone")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="box")
        for key in ("in/b.csv", "in/a.csv", "in/.hidden", "in/c.csv.part", "in/deep/d.csv"):
            client.put_object(Bucket="box", Key=key, Body=CSV)
        yield client
    server.stop()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("s3://box/in/a.csv", ["a.csv"]),
        ("s3://box/in/", ["a.csv", "b.csv"]),
        ("s3://box/in/*.csv", ["a.csv", "b.csv"]),
        ("s3://box/**/*.csv", ["a.csv", "b.csv", "d.csv"]),
    ],
)
def test_a_store_gives_a_file_a_folder_or_a_glob(store: Any, read_all: ReadAll, path: str, names: list[str]) -> None:
    assert store
    found = read_all({"kind": "csv", "path": path})
    assert [batch.name for batch in found] == names
    assert all(len(batch.rows) == 2 for batch in found if isinstance(batch, Batch))


def test_an_object_that_comes_later_is_seen_by_the_next_read(store: Any, read_all: ReadAll) -> None:
    store.put_object(Bucket="box", Key="new/a.csv", Body=CSV)
    source = {"kind": "csv", "path": "s3://box/new/"}
    assert len(read_all(source)) == 1
    store.put_object(Bucket="box", Key="new/b.csv", Body=b"no rows\n")
    assert [type(one) for one in read_all(source)] == [Batch, Unreadable]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("s3://box/none.csv", "source.not_found"),
        ("s3://box/none/", "source.no_files"),
        ("s3://nobox/a.csv", "source.not_found"),
    ],
)
def test_an_object_that_is_not_in_the_store_is_named(store: Any, refusal: Refuse, path: str, code: str) -> None:
    assert store
    assert refusal({"kind": "csv", "path": path}).code == code


def test_an_object_larger_than_the_limit_is_not_fetched(store: Any, refusal: Refuse) -> None:
    assert store
    error = refusal({"kind": "csv", "path": "s3://box/in/a.csv", "max_bytes": len(CSV) - 1})
    assert error.code == "source.too_large"


def test_a_store_that_does_not_answer_is_given_up_in_time(
    store: Any, refusal: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    error = refusal({"kind": "csv", "path": "s3://box/in/a.csv", "timeout": "1s"})
    assert error.code in {"source.timeout", "source.not_fetched"}
