from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecast.installation import Installation
from pipelines.ingestion.ingest import ingest

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def home(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame], tiny_document: dict[str, Any]
) -> Path:
    tiny_document["datasets"]["tiny"] |= {
        "models": ["dlinear"],
        "training": {"max_epochs": 1, "stride": 8, "batch_size": 32, "baselines": []},
    }
    installation = make_home(tiny_rows(), tiny_document)
    ingest(installation.dataset("tiny"))
    return installation.home.path


@pytest.mark.slow
def test_a_search_and_a_study_by_command(run: Run, home: Path) -> None:
    options = ("--model", "dlinear", "--minutes", 5, "--home", home)
    code, out, _ = run("tune", *options, "--trials", 2)
    assert code == 0
    for message in ("dlinear on tiny: 2 complete", "config file", "[datasets.tiny.options]", "dlinear = {"):
        assert message in out
    code, out, err = run("tune", *options, "--trials", 1, "--json")
    found = json.loads(out)
    assert code == 0
    assert [row["state"] for row in found["trials"]] == ["complete"] * 3
    assert found["best"]["loss"] == min(row["loss"] for row in found["trials"])
    assert "trial 3: started" in err

    code, out, _ = run("study", "--questions", "noise, missing", "--home", home)
    assert code == 0
    for message in ("Noise in the look-back", "Missing values", "10% in blocks", "tiny-study.html"):
        assert message in out
    code, out, _ = run("study", "--questions", "noise,size", "--models", "dlinear", "--home", home, "--json")
    found = json.loads(out)
    assert (code, found["stopped"], found["missing"]) == (0, "done", [])
    assert found["answers"][1]["values"]["dlinear"][0]["row"]["parameters"] > 0
    code, out, _ = run("study", "--questions", "lookback", "--minutes", 1e-6, "--home", home)
    assert code == 0
    assert "no time was left for 3 trainings" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("tune", "--model", "dlinaer", "--minutes", 1),
            2,
            'did you mean "dlinear"? (model.unknown)',
        ),
        (("tune", "--model", "linear", "--minutes", 1), 2, "(tuning.nothing_to_tune)"),
        (("tune", "--model", "dlinear", "--minutes", 0), 2, "(tuning.no_time)"),
        (("tune", "--model", "dlinear"), 2, "--minutes"),
        (("study", "--models", "dlinear,linaer"), 2, "(model.unknown)"),
        (("study", "--questions", "nosie"), 2, '"nosie" cannot be studied; did you mean "noise"?'),
        (("study", "--minutes", 0), 2, "(study.no_time)"),
        (("tune", "nobody", "--model", "dlinear", "--minutes", 1), 3, "(dataset.unknown)"),
    ],
)
def test_what_makes_no_sense_is_one_line_with_a_remedy_and_a_code(
    run: Run, home: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    found, _, err = run(*arguments, "--home", home)
    assert found == code
    assert message in err


@pytest.mark.parametrize("command", [("tune", "--model", "dlinear", "--minutes", 1), ("study",)], ids=["tune", "study"])
def test_without_rows_there_is_nothing_to_search(
    run: Run, make_home: Callable[..., Installation], command: tuple[object, ...]
) -> None:
    code, _, err = run(*command, "--home", make_home().home.path)
    assert (code, "(history.empty)" in err) == (8, True)
