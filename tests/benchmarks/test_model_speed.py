"""The models' speed benchmark: sides take turns, the floor holds every matrix product, goals are judged by medians."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.models.lockstep import Side, SideFailedError, interleave
from benchmarks.models.products import record
from benchmarks.models.report import Goal, markdown, row_of
from benchmarks.models.sides import Task, network_step

SIDE = """
import sys
from pathlib import Path
from benchmarks.models.lockstep import Pacer

name, diary = sys.argv[1], Path(sys.argv[2])
print("a library's chatter")
pacer = Pacer(2)
while True:
    with diary.open("a") as file:
        file.write(name)
    pacer.step()
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules a side can run."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_sides_take_turns_block_by_block_after_warming_up(modules: Path) -> None:
    (modules / "paced.py").write_text(SIDE, encoding="utf-8")
    diary = modules / "diary"
    sides = {name: Side(("paced", name, str(diary))) for name in "ab"}
    taken = interleave(sides, rounds=2, threads=1)
    assert diary.read_text(encoding="utf-8") == "aabb" + 2 * "aabb"
    assert [len(times) for times in taken.values()] == [2, 2]
    assert all(time > 0 for times in taken.values() for time in times)


@pytest.mark.slow
def test_a_side_that_dies_tells_its_last_words(modules: Path) -> None:
    (modules / "broken.py").write_text("raise SystemExit('no such rival')", encoding="utf-8")
    with pytest.raises(SideFailedError, match="no such rival"):
        interleave({"broken": Side(("broken",))}, rounds=1, threads=1)


@pytest.mark.slow
def test_the_products_of_a_step_are_those_of_its_forward_and_backward() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
    windows = torch.randn(4, 3)
    products = record(lambda: network(windows).sum().backward())
    # Each layer forward and for its weight; the second also for its input, the first's input needs no gradient.
    assert sorted(product.operations for product in products) == sorted([2 * 4 * 15] * 2 + [2 * 4 * 10] * 3)


@pytest.mark.slow
def test_replayed_products_have_the_step_s_shapes() -> None:
    network = nn.Linear(3, 5)
    windows = torch.randn(2, 4, 3)
    shapes = [product.prepare()().shape for product in record(lambda: network(windows).sum().backward())]
    assert shapes == [(8, 5), (5, 3)]


@pytest.mark.slow
def test_the_floor_of_itransformer_is_that_of_its_equations() -> None:
    options = {"width": 16, "feed_forward": 24, "layers": 1, "heads": 2, "linear_path": False}
    task = Task(model="itransformer", options=options, batch=4)
    tokens = task.batch * task.channels
    layer = tokens * (4 * 16 * 16 + 2 * 16 * 24)
    embedding, head = tokens * task.lookback * 16, tokens * task.horizon * 16
    operations = sum(product.operations for product in record(network_step(task)))
    assert operations == 2 * (3 * (layer + head) + 2 * embedding)


@pytest.mark.slow
def test_goals_are_judged_by_medians() -> None:
    rows = [
        row_of("training", "ours", [9.0, 10.0, 90.0], windows=32, threads=1),
        row_of("training", "rival", [20.0, 19.0, 21.0], windows=32, threads=1),
    ]
    goals = [
        Goal("training", "rival", "ours", 1.5),
        Goal("training", "ours", None, 9.5, at_most=True),
        Goal("training", "ours", "a side that did not run", 1.0),
    ]
    table = markdown(rows, goals)
    assert "| rival over ours | 2.00 | at least 1.5 | met |" in table
    assert "| ours over 1 ms | 10.00 | at most 9.5 | missed |" in table
    assert "did not run" not in table
    assert "| training | ours | 10 | 9.5 .. 50 | 3200 |" in table
