import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from forecast.config.training import PromotionPolicy
from forecast.evaluation.night import NightRecord, judge
from forecast.evaluation.scores import Evidence
from forecast.installation import Installation
from forecast.runtime.manifest import Manifest
from forecast.runtime.precision import Variant, Variants

Run = Callable[..., tuple[int, str, str]]
POLICY = PromotionPolicy(max_coverage_error=1.0)
NOW = datetime(2024, 5, 1, 2, 30, tzinfo=UTC)


@pytest.fixture
def night(make_evidence: Callable[..., Evidence]) -> NightRecord:
    scored = (make_evidence("linear-1", 1.0, horizons=(6, 24)), make_evidence("informer-1", 1.5, horizons=(6, 24)))
    before = make_evidence("dlinear-0", 1.2, horizons=(6, 24))
    verdict = judge(scored, before, POLICY, "")
    return NightRecord(
        dataset="tiny", recorded_at=NOW, data_version=3, data_digest="d", holdout_from=NOW, holdout_until=NOW,
        origins=200, candidates=scored, champion_evidence=before, baselines=("linear",), policy=POLICY, unfit="",
        verdict=verdict, champion=verdict.challenger, tracking_run="run", failures={"tirex": "no weights"},
    )  # fmt: skip


def test_a_comparison_shows_scores_tests_failures_and_the_verdict(
    run: Run, tiny_home: Installation, night: NightRecord
) -> None:
    tiny_home.ledger.nights.add(night)
    code, out, _ = run("compare", "--home", tiny_home.home.path)
    assert code == 0
    for message in (
        "★ linear-1", "linear-1 against dlinear-0", "1 to 6", "7 to 24", "informer does not beat linear",
        "tirex was left out: no weights", night.verdict.sentence.split(":")[0],
    ):  # fmt: skip
        assert message in out


def test_a_comparison_shows_both_precisions_of_a_network_that_was_tried_as_int8(
    run: Run, tiny_home: Installation, night: NightRecord, make_evidence: Callable[..., Evidence]
) -> None:
    sides = [Variant(size_mb=size, latency_ms=size, loss=0.5) for size in (4.0, 1.0)]
    both = Variants(float32=sides[0], int8=sides[1])
    tried = make_evidence("nlinear-1", 2.0, horizons=(6, 24), variants=both, precision=both.serves)
    tiny_home.ledger.nights.add(night.model_copy(update={"candidates": (*night.candidates, tried)}))
    _, out, _ = run("compare", "--home", tiny_home.home.path)
    assert f"nlinear-1 {both.summary}" in " ".join(out.split())
    document = json.loads(run("compare", "--json", "--home", tiny_home.home.path)[1])
    seen = {item["model_version"]: item["smoke_test"] for item in document["leaderboard"]}
    assert (seen["nlinear-1"]["precision"], seen["linear-1"]["precision"]) == ("int8", "float32")
    assert seen["nlinear-1"]["variants"]["int8"]["size_mb"] == 1.0


def test_an_earlier_night_is_asked_for_by_its_number(run: Run, tiny_home: Installation, night: NightRecord) -> None:
    for name in ("older", "newer"):
        tiny_home.ledger.nights.add(night.model_copy(update={"tracking_run": name}))
    for back, name in (("0", "newer"), ("1", "older")):
        document = json.loads(run("compare", "--back", back, "--json", "--home", tiny_home.home.path)[1])
        assert document["tracking_run"] == name
    code, _, err = run("compare", "--back", "2", "--home", tiny_home.home.path)
    assert code == 3
    assert "tiny has 2 stored nights" in err


def test_a_verdict_that_does_not_follow_from_its_scores_is_an_error(
    run: Run, tiny_home: Installation, night: NightRecord
) -> None:
    forged = night.verdict.model_copy(update={"promote": not night.verdict.promote})
    tiny_home.ledger.nights.add(night.model_copy(update={"verdict": forged}))
    code, _, err = run("compare", "--home", tiny_home.home.path)
    assert code == 6
    assert "has a different verdict today" in err


def test_without_a_night_there_is_nothing_to_compare(run: Run, tiny_home: Installation) -> None:
    code, _, err = run("compare", "--home", tiny_home.home.path)
    assert code == 3
    assert "forecast train tiny" in err


def test_one_command_goes_back_and_another_tells_the_history(
    run: Run, tiny_home: Installation, crown: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # it is down: no reason not to go back
    crown(tiny_home, "repeat_last-2")
    code, out, _ = run("rollback", "--home", tiny_home.home.path)
    assert code == 0
    assert "repeat_last-1 is champion again and replaces repeat_last-2: by hand" in out
    code, out, _ = run("champions", "--home", tiny_home.home.path)
    assert out.index("★ repeat_last-1") < out.index("repeat_last-2")
    message = json.loads(run("champions", "--json", "--home", tiny_home.home.path)[1])
    assert [one["model_version"] for one in message] == ["repeat_last-1", "repeat_last-2", "repeat_last-1"]


def test_a_version_that_never_reigned_is_named_with_the_nearest(
    run: Run, tiny_home: Installation, crown: Callable[..., Manifest]
) -> None:
    crown(tiny_home, "repeat_last-2")
    code, _, err = run("rollback", "--to", "repeat_lst-1", "--home", tiny_home.home.path)
    assert code == 3
    assert 'did you mean "repeat_last-1"' in err
