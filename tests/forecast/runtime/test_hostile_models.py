from __future__ import annotations

import pickle
import random
import shutil
from pathlib import Path

import pytest

from benchmarks.hostile import __main__ as hostile
from benchmarks.hostile.kinds import KINDS, SLEEPERS, STOPPED, make, pickled
from benchmarks.hostile.mutations import FILES, WAYS, mutate
from benchmarks.hostile.sound import store_sound
from benchmarks.hostile.trials import Outcome, tried
from forecast.errors import ForecastError
from forecast.runtime import sandbox
from forecast.runtime.manifest import manifest_digest
from forecast.runtime.sandbox import load_guarded

_ATTACKS = {**KINDS, **SLEEPERS}
_MUTATIONS = 200


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def sound(scratch: Path) -> Path:
    store_sound(scratch / "sound")
    return scratch / "sound"


@pytest.fixture(scope="module")
def marker(scratch: Path) -> Path:
    return scratch / "executed"


@pytest.fixture(scope="module")
def attacked(scratch: Path, sound: Path, marker: Path) -> dict[str, Path]:
    folders = {name: scratch / "attacked" / str(number) for number, name in enumerate(_ATTACKS)}
    for name, folder in folders.items():
        shutil.copytree(sound, folder)
        make(folder, marker, _ATTACKS[name])
    return folders


@pytest.fixture(scope="module")
def outcomes(attacked: dict[str, Path], sound: Path) -> dict[str, Outcome]:
    return dict(zip(attacked, tried(list(attacked.values()), sound), strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_a_hostile_folder_is_refused_with_a_code(outcomes: dict[str, Outcome], marker: Path, name: str) -> None:
    assert outcomes[name].kind == "refused"
    assert outcomes[name].message in {
        "model.corrupt", "model.golden_differs", "model.not_found", "model.unusable", "file.unreadable",
    }  # fmt: skip
    assert not marker.exists()


def test_a_model_that_uses_up_its_time_is_stopped(scratch: Path, sound: Path, marker: Path) -> None:
    folder = Path(shutil.copytree(sound, scratch / "endless"))
    make(folder, marker, STOPPED["network: a loop without an end"])
    assert [outcome.kind for outcome in tried([folder], sound, cpu_seconds=2)] == ["stopped"]


@pytest.mark.parametrize("name", SLEEPERS)
def test_what_only_the_ledger_can_know_is_loaded_by_nothing_else(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name] == Outcome("loaded", "other")


def test_the_service_loads_and_tries_nothing_that_the_ledger_does_not_know(
    attacked: dict[str, Path], sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = manifest_digest(sound)
    for entry in ("_try", "load"):
        monkeypatch.setattr(sandbox, entry, lambda *_: pytest.fail("it was opened"))
    for folder in attacked.values():
        with pytest.raises(ForecastError):
            load_guarded(folder, known)


def test_a_folder_that_is_refused_by_the_child_is_not_opened_by_the_service(
    attacked: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "load", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ForecastError) as refused:
        load_guarded(attacked["network: nodes that wait for each other"])
    assert refused.value.code == "model.unusable"


def test_mutations_are_refused_or_stand_up_to_the_golden_example(sound: Path) -> None:
    rows, served = hostile._mutations(_MUTATIONS, 3, sound)
    assert served == 0
    assert sum(row["count"] for row in rows) == _MUTATIONS
    assert {row["outcome"] for row in rows} <= {"refused", "stopped", "loaded"}
    refused = sum(row["count"] for row in rows if row["outcome"] == "refused")
    assert refused > _MUTATIONS / 2


def test_mutations_of_one_seed_are_the_same_and_reach_every_file_in_every_way(scratch: Path, sound: Path) -> None:
    seen = set()
    for number in range(_MUTATIONS):
        folders = [scratch / "mutated" / f"{number}-{turn}" for turn in "ab"]
        made = [mutate(sound, folder, random.Random(number)) for folder in folders]  # noqa: S311
        assert made[0] == made[1]
        assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in FILES)
        assert manifest_digest(folders[0]) != manifest_digest(sound)
        seen.add(made[0])
    assert {name for name, _ in seen} == set(FILES)
    assert {way for _, way in seen} == set(WAYS)


def test_the_payload_would_fire_where_pickles_are_read(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "executed"))  # noqa: S301 - its own
    assert (tmp_path / "executed").exists()
