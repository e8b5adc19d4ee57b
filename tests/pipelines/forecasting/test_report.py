"""The HTML report of an issued forecast."""

import pytest

from forecast.errors import StorageError
from forecast.installation import Installation
from pipelines.forecasting.issue import issue
from pipelines.forecasting.report import write_report


@pytest.mark.parametrize("horizon", [None, 6, 100])
def test_a_report_is_one_page_that_needs_no_network(tiny_home: Installation, horizon: int | None) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    page = write_report(tiny_home.dataset("tiny"), issuance, horizon).read_text(encoding="utf-8")
    assert page.count('class="plotly-graph-div"') == 4
    assert "<script src=" not in page
    assert issuance.forecast_id in page


def test_a_report_that_cannot_be_written_is_an_error(tiny_home: Installation) -> None:
    issuance, _ = issue(tiny_home.dataset("tiny"))
    (tiny_home.home.reports / "tiny.html").mkdir()
    with pytest.raises(StorageError):
        write_report(tiny_home.dataset("tiny"), issuance)
