import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy.protocol import Dataset, calendar_of, series_of
from benchmarks.export.__main__ import HORIZON, LOOKBACK, NETWORKS, RESULTS, Row, markdown, windows, write


@pytest.mark.slow
def test_test_windows_follow_their_look_back_and_lie_behind_the_validation_rows() -> None:
    rows = 2000
    frame = pd.DataFrame({"a": np.arange(rows, dtype=float)}, index=pd.date_range("2020", periods=rows, freq="h"))
    data = Dataset("made", series_of(frame), calendar_of(frame.index), (1000, 1400, rows))
    inputs, actual = windows(data, 8)
    assert inputs.shape[1:] == (LOOKBACK, 1)
    assert actual.shape[1:] == (HORIZON, 1)
    assert actual[0, 0, 0] == 1400
    assert (actual[:, 0, 0] - inputs[:, -1, 0] == 1).all()
    assert actual.max() < rows


@pytest.mark.slow
def test_both_precisions_of_every_network_are_in_the_table_and_the_file(tmp_path: Path) -> None:
    rows = [
        Row(name, precision, 1.0, 0.5, 2.0, 0.4, 0.3, 0.2, 10, 1, 8)
        for name in NETWORKS
        for precision in ("float32", "int8")
    ]
    assert markdown(rows).count("1.00 / 1.00") == len(NETWORKS)
    write(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        assert [(row["model"], row["precision"]) for row in csv.DictReader(file)] == [
            (row.model, row.precision) for row in rows
        ]


@pytest.mark.slow
def test_the_stored_run_has_every_network_in_both_precisions() -> None:
    with RESULTS.open(encoding="utf-8") as file:
        found = {(row["model"], row["precision"]) for row in csv.DictReader(file)}
    assert found == {(name, precision) for name in NETWORKS for precision in ("float32", "int8")}
