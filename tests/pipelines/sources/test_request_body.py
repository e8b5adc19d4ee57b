from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError
from pipelines.sources.request_body import CONTENT_TYPES, from_body

FRAME = pl.DataFrame(
    {"time": ["t1", "t2"], "site": ["a", "b"], "load": [1.0, None], "price": [2, 3], "wind": [4.5, 5.5]}
)
ROWS = [(1, "a", "t1", 1.0, 2, 4.5), (2, "b", "t2", None, 3, 5.5)]
SECRET = "hunter2"  # noqa: S105  # a word that no message may repeat


def written(write: Callable[[pl.DataFrame, io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(FRAME, buffer)
    return buffer.getvalue()


BODIES = {
    "application/json": json.dumps(FRAME.to_dicts()).encode(),
    "application/json; charset=utf-8": json.dumps({"rows": FRAME.to_dicts()}).encode(),
    "Application/JSON ;charset=UTF-8": json.dumps(FRAME.to_dict(as_series=False) | {"more": "x"}).encode(),
    "text/csv": FRAME.write_csv().encode(),
    "text/tab-separated-values": FRAME.write_csv(separator="\t").encode(),
    "application/x-ndjson": FRAME.write_ndjson().encode(),
    "application/jsonl": FRAME.write_ndjson().encode(),
    "application/vnd.apache.arrow.file": written(pl.DataFrame.write_ipc),
    "application/vnd.apache.arrow.stream": written(pl.DataFrame.write_ipc_stream),
    "application/vnd.apache.parquet": written(pl.DataFrame.write_parquet),
}


@pytest.mark.parametrize("content_type", BODIES)
def test_every_kind_of_body_gives_the_same_rows(tiny_config: DatasetConfig, content_type: str) -> None:
    body = BODIES[content_type]
    batch = from_body(body, content_type, tiny_config, "tiny")
    assert batch.rows.rows() == ROWS
    assert (batch.name, batch.digest) == ("body", hashlib.sha256(body).hexdigest())


def test_every_content_type_that_is_read_is_tested() -> None:
    assert set(CONTENT_TYPES) == {kind.partition(";")[0].strip().lower() for kind in BODIES}


def test_json_may_mix_types_and_numbers_of_any_length(tiny_config: DatasetConfig) -> None:
    loads = [1, "2,5", None, True, 10**30, [1]]
    prices = [1, 2.5, None, 10**18, 1e300, -1]
    winds = [10**400, None, 1, 2, 3, 4]
    body = json.dumps(
        [
            {"time": "t", "site": "a", "load": load, "price": price, "wind": wind}
            for load, price, wind in zip(loads, prices, winds, strict=True)
        ]
    ).encode()
    rows = from_body(body, "application/json", tiny_config, "tiny").rows
    assert rows["load"].to_list() == ["1", "2,5", None, "true", str(10**30), "[1]"]
    assert rows["price"].to_list() == [1.0, 2.5, None, 1e18, 1e300, -1.0]
    assert rows["wind"].to_list() == [str(10**400), None, "1", "2", "3", "4"]


def test_long_rows_may_be_pushed(config_with: Callable[..., DatasetConfig]) -> None:
    config = config_with(source={"kind": "push", "layout": "long"}, series="")
    body = json.dumps({"time": ["t", "t"], "channel": ["load", "wind"], "value": [1, 2.5]}).encode()
    assert from_body(body, "application/json", config, "tiny").rows.rows() == [(1, "tiny", "t", 1.0, None, 2.5)]


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("", b"[]", "source.unknown_content_type"),
        (f"text/{SECRET}", b"[]", "source.unknown_content_type"),
        ("text/csv; charset=latin-1", b"[]", "source.not_utf8"),
        ("application/json", b"", "source.malformed"),
        ("application/json", b'[{"hunter2":', "source.malformed"),
        ("application/json", b"\xff\xfe", "source.malformed"),
        ("application/json", b"[" * 100_000, "source.malformed"),
        ("application/json", b"9" * 5_000, "source.malformed"),
        ("application/json", b"7", "source.malformed"),
        ("application/json", b'"hunter2"', "source.malformed"),
        ("application/json", b'[{"time": 1}, "hunter2"]', "source.malformed"),
        ("application/json", b'{"rows": "hunter2"}', "source.malformed"),
        ("application/json", b'{"time": "hunter2"}', "source.malformed"),
        ("application/json", b'{"time": [1], "load": []}', "source.malformed"),
        ("application/json", b"[]", "ingest.missing_column"),
        ("application/json", b'[{"times": 1, "hunter2": 1}]', "ingest.missing_column"),
        (
            "application/json",
            b'[{"time": "hunter2\\ud800", "site": "", "load": 1, "price": 1, "wind": 1}]',
            "source.not_utf8",
        ),
        ("text/csv", b"", "source.empty"),
        ("text/csv", b"time,hunter2\n1,2\n", "ingest.missing_column"),
        ("text/csv", b"hunter2,hunter2\n1,2\n", "source.doubled_column"),
        ("text/csv", b"time,site,load,price,wind\nhunter2,1\n", "source.malformed"),
        ("text/csv", b'time,site,load,price,wind\n"hunter2,1,2,3,4\n', "source.malformed"),
        ("text/csv", b"time,site,load,price,wind\n", "source.no_rows"),
        ("application/x-ndjson", b'{"hunter2"}', "source.malformed"),
        ("application/vnd.apache.parquet", b"PAR1hunter2PAR1", "source.malformed"),
        ("application/vnd.apache.arrow.stream", b"hunter2", "source.malformed"),
        ("application/vnd.apache.arrow.file", b"ARROW1\0\0hunter2", "source.malformed"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_without_repeating_it(
    tiny_config: DatasetConfig, content_type: str, body: bytes, code: str
) -> None:
    with pytest.raises(ForecastError) as caught:
        from_body(body, content_type, tiny_config, "tiny")
    assert caught.value.code == code
    assert caught.value.remedy
    assert SECRET not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["time", "site", "load", "rows"]), inner)
    ),
    max_leaves=10,
)
RECORD = st.fixed_dictionaries(dict.fromkeys(("time", "site", "load", "price", "wind"), JSON))


@given(sent=JSON | st.lists(RECORD, min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_whatever_json_is_sent_it_is_read_or_refused_in_words(plain_job: DatasetConfig, sent: Any) -> None:
    body = json.dumps(sent).encode()
    try:
        batch = from_body(body, "application/json", plain_job, "tiny")
    except ForecastError as error:
        refused = error
        assert refused.code.startswith(("source.", "ingest."))
    else:
        assert len(batch.rows) <= len(sent)
