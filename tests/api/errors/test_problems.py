from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Served

QUERIES = [
    ({"horizon": "0"}, "horizon.out_of_range"),
    ({"horizon": "-3"}, "horizon.out_of_range"),
    ({"horizon": "10001"}, "horizon.out_of_range"),
    ({"horizon": "1000000000"}, "horizon.out_of_range"),
    ({"horizon": "9" * 5000}, "horizon.out_of_range"),
    ({"horizon": "many"}, "horizon.not_a_number"),
    ({"horizon": "1.5"}, "horizon.not_a_number"),
    ({"horizon": ""}, "horizon.not_a_number"),
    ({"horizon": "nan"}, "horizon.not_a_number"),
    ({"quantiles": "0.2"}, "quantiles.not_trained"),
    ({"quantiles": "nan"}, "quantiles.not_trained"),
    ({"quantiles": "half"}, "quantiles.not_a_number"),
    ({"tz": "Mars/Olympus"}, "tz.unknown"),
    ({"tz": "../../etc/passwd"}, "tz.unknown"),
    ({"as_of": "yesterday"}, "as_of.malformed"),
    ({"as_of": "2024-01-01T00:00:00"}, "as_of.malformed"),
    ({"as_of": "0001-01-01T00:00:00+14:00"}, "as_of.malformed"),
    ({"horizn": "24"}, "parameter.unknown"),
]
NAMES = [
    ("/v1/datasets/tinny/forecast", "dataset.unknown", 'did you mean "tiny"?'),
    ("/v1/datasets/tinny", "dataset.unknown", 'did you mean "tiny"?'),
    ("/v1/datasets/tiny/forecast?series=eats", "series.unknown", 'did you mean "east"?'),
    ("/v1/datasets/tiny/forecast?channels=load,prize", "channel.unknown", 'did you mean "price"?'),
    ("/v1/datasets/tiny/forecast?channels=wind", "channel.unknown", "known are: load, price"),
]
LIKED = [
    ("*/*", "application/json"),
    ("application/*", "application/json"),
    ("text/*", "text/csv"),
    ("text/csv;q=0.4, application/json;q=0.9", "application/json"),
    ("application/json;q=0, */*", "text/csv"),
]
UNLIKED = ["application/xml", "image/*", "application/json;q=0", "text/csv;q=nonsense"]
NOTHING = [
    ("GET", "/v1/nothing", 404, "route.unknown"),
    ("GET", "/v1/datasets/", 404, "route.unknown"),
    ("GET", "/static/page.html", 404, "route.unknown"),
    ("GET", "/static/..%2f..%2fapp.py", 404, "route.unknown"),
    ("POST", "/v1/datasets", 405, "method.not_allowed"),
    ("DELETE", "/v1/datasets/tiny/forecast", 405, "method.not_allowed"),
]
HOSTS = [
    ("localhost", 200),
    ("LOCALHOST:8000", 200),
    ("127.0.0.1:1234", 200),
    ("[::1]:8000", 200),
    ("evil.example", 400),
    ("localhost.evil.example", 400),
    ("localhost:80@evil.example", 400),
    ("127.0.0.1.nip.io", 400),
    ("", 400),
]
ROUTES = (
    "/",
    "/healthz",
    "/readyz",
    "/v1/datasets",
    "/v1/datasets/tiny",
    "/v1/datasets/tiny/forecast",
    "/docs",
    "/redoc",
)


def test_what_cannot_be_meant_is_refused_with_a_stable_code(served: Served, subtests: pytest.Subtests) -> None:
    for query, code in QUERIES:
        with subtests.test(query=query, code=code):
            answer = served.get(**query)
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (422, code)
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["detail"]
            assert problem["remedy"]
            given = next(iter(query.values()))
            assert len(given) < 3 or given not in answer.text


def test_an_unknown_name_is_answered_with_the_nearest(served: Served, subtests: pytest.Subtests) -> None:
    for path, code, remedy in NAMES:
        with subtests.test(path=path, code=code):
            answer = served.client.get(path)
            assert answer.status_code == 404
            assert (answer.json()["code"], answer.json()["remedy"]) == (code, remedy)


def test_an_untrained_quantile_is_answered_with_the_trained_ones(served: Served) -> None:
    assert served.get(quantiles="0.25").json()["remedy"] == "available are 0.1, 0.5, 0.9"


def test_the_format_is_the_one_the_client_likes_best(served: Served, subtests: pytest.Subtests) -> None:
    for accept, media in LIKED:
        with subtests.test(accept=accept, media=media):
            answer = served.client.get("/v1/datasets/tiny/forecast", headers={"Accept": accept})
            assert answer.headers["content-type"].partition(";")[0] == media


def test_another_format_is_not_acceptable(served: Served, subtests: pytest.Subtests) -> None:
    for accept in UNLIKED:
        with subtests.test(accept=accept):
            answer = served.client.get("/v1/datasets/tiny/forecast", headers={"Accept": accept})
            assert (answer.status_code, answer.json()["code"]) == (406, "format.not_acceptable")


def test_a_request_for_nothing_is_a_problem_document(served: Served, subtests: pytest.Subtests) -> None:
    for method, path, status, code in NOTHING:
        with subtests.test(method=method, path=path):
            refused = served.client.request(method, path)
            assert refused.status_code == status
            assert refused.headers["content-type"] == "application/problem+json"
            problem = refused.json()
            assert (problem["code"], problem["status"], problem["type"]) == (code, status, "about:blank")
            assert refused.headers["content-security-policy"]


def test_every_answer_binds_the_browser(served: Served, subtests: pytest.Subtests) -> None:
    for path in ROUTES:
        with subtests.test(path=path):
            headers = served.client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            script = re.search(r"script-src ([^;]*)", policy)[1]
            assert script == ("'self' 'unsafe-inline'" if path in {"/docs", "/redoc"} else "'self'")
            assert "http" not in policy


def test_only_names_of_this_machine_are_answered(served: Served, subtests: pytest.Subtests) -> None:
    for host, status in HOSTS:
        with subtests.test(host=host, status=status):
            answer = served.client.get("/healthz", headers={"Host": host})
            assert answer.status_code == status
            if status == 400:
                assert answer.json()["code"] == "host.unknown"
                assert not host or host not in answer.text


def test_an_unknown_zone_is_answered_with_an_example(served: Served) -> None:
    assert served.get(tz="Qqqq").json()["remedy"] == "give an IANA name such as America/New_York"
    assert served.get(tz="Europe/Berlim").json()["remedy"] == 'did you mean "Europe/Berlin"?'


def test_of_many_mistakes_the_first_ten_are_listed(served: Served) -> None:
    refused = served.get(**{f"p{number}": "" for number in range(3000)})
    assert (refused.status_code, len(refused.json()["mistakes"])) == (422, 10)
    assert len(refused.content) < 5000


def test_head_is_answered_as_get_is_but_without_a_body(served: Served, subtests: pytest.Subtests) -> None:
    for path in (*ROUTES, "/static/style.css", "/v1/nothing", "/v1/datasets/tiny/forecast?horizon=0"):
        with subtests.test(path=path):
            head, got = served.client.head(path), served.client.get(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["content-type"] == got.headers["content-type"]
            assert head.headers.get("etag") == got.headers.get("etag")
    assert served.client.post("/v1/datasets").headers["allow"] == "GET, HEAD"
