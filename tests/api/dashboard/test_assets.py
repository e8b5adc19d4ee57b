"""Scripts and styles: gzipped, and cached by browsers until they change."""

from __future__ import annotations

import gzip
import hashlib
import re
from typing import TYPE_CHECKING

import plotly.offline

from api.dashboard import assets

if TYPE_CHECKING:
    from tests.api.conftest import Served


def test_the_script_of_plotly_is_the_one_of_its_package(served: Served) -> None:
    script = served.client.get(assets.address("plotly.min.js"))
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.text == plotly.offline.get_plotlyjs()


def test_files_of_a_page_are_immutable_under_urls_with_their_digest(served: Served) -> None:
    named = re.findall(r'(?:src|href)="(/static/[^"]+)"', served.client.get("/").text)
    assert len(named) == 10
    for address in named:
        answer = served.client.get(address)
        assert "immutable" in answer.headers["cache-control"], address
        assert address.endswith(hashlib.sha256(answer.content).hexdigest()[:16])


def test_a_url_without_the_current_digest_is_revalidated(served: Served) -> None:
    for address in ("/static/page.js", "/static/page.js?v=0123456789abcdef"):
        answer = served.client.get(address)
        assert answer.headers["cache-control"] == "no-cache"
        again = served.client.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_a_file_is_gzipped_for_clients_that_accept_gzip(served: Served) -> None:
    address = assets.address("plotly.min.js")
    plain = served.client.get(address, headers={"Accept-Encoding": "identity"})
    with served.client.stream("GET", address, headers={"Accept-Encoding": "gzip, br"}) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        content = b"".join(packed.iter_raw())
    assert len(content) < len(plain.content) / 2.5
    assert gzip.decompress(content) == plain.content
    assert packed.headers["etag"] != plain.headers["etag"]
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
