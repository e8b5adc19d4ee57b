"""Real clients of other services, in environments of their own (the guide is run by tests/test_docs.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from forecast.runtime.model import load
from pipelines.forecasting.recursion import extend
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.clean import clean

if TYPE_CHECKING:
    import httpx

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served


def run(python: str | Path, script: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [python, "-c", script, *arguments], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def expected(served: Served) -> Callable[[int], Any]:
    """What the service's own code forecasts from the newest rows."""
    config = served.home.config.datasets["tiny"]
    panel = clean(served.home.dataset("tiny").observations.read(version=0), config)
    model = load(served.home.home.models / served.issuance.model_folder)
    return lambda horizon: extend(model, panel, config, horizon)


@pytest.fixture
def rows(served: Served, tmp_path: Path) -> Path:
    """The newest 60 rows of each series as CSV."""
    stored = served.home.dataset("tiny").observations.read(version=0)
    newest = stored["time"].max()
    assert isinstance(newest, datetime)
    newest_rows = stored.filter(pl.col("time") > newest - timedelta(hours=60))
    file = tmp_path / "rows.csv"
    newest_rows.with_columns(pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(file)
    return file


NIXTLA = """
import sys, json
import pandas as pd
from nixtla import NixtlaClient
rows = pd.read_csv(sys.argv[2], parse_dates=["time"])
df = rows.melt(["series", "time", "wind"], ["load", "price"], "channel", "y").rename(columns={"time": "ds"})
df["unique_id"] = df["series"] + "/" + df["channel"]
df = df[["unique_id", "ds", "y", "wind"]].sample(frac=1, random_state=0)
client = NixtlaClient(api_key="any", base_url=sys.argv[1])
assert client.validate_api_key()
assert client.list_models() == ["tiny"]
found = {}
for model in ("timegpt-1", "tiny", "tiny/repeat_last-1"):
    made = client.forecast(df, h=30, freq="h", level=[80], model=model, hist_exog_list=["wind"])
    found[model] = {key: part[["TimeGPT-lo-80", "TimeGPT", "TimeGPT-hi-80"]].values.tolist()
                   for key, part in made.groupby("unique_id")}
quantiles = client.forecast(df, h=2, freq="h", quantiles=[0.1, 0.5, 0.9], model="tiny", hist_exog_list=["wind"])
found["columns"] = list(quantiles.columns)
one = df[df["unique_id"].str.startswith("west")]
named = client.forecast(one, h=30, freq="h", level=[80], model="tiny", hist_exog_list=["wind"],
                        model_parameters={"series": ["west/load", "west/price"]})
found["west"] = named[named["unique_id"] == "west/load"]["TimeGPT"].tolist()
found["first"] = str(made["ds"].min())
found["refused"] = []
for wrong in ({"df": one}, {"freq": "15min"}, {"level": [50]}, {"model": "nobody"}, {"finetune_steps": 5},
              {"hist_exog_list": None}):
    try:
        client.forecast(**{"df": df, "h": 3, "freq": "h", "model": "tiny", "hist_exog_list": ["wind"]} | wrong)
    except Exception as error:
        found["refused"].append(getattr(error, "body", {}).get("code"))
print(json.dumps(found))
"""


def test_nixtlas_client_gets_the_forecast_of_the_service(
    served: Served, expected: Callable[[int], Any], rows: Path, client_python: Callable[[str], Path], tmp_path: Path
) -> None:
    printed = json.loads(run(client_python("nixtla"), NIXTLA, tmp_path, str(served.client.base_url), str(rows)))
    wanted = expected(30)
    for model in ("timegpt-1", "tiny", "tiny/repeat_last-1"):
        for s, series in enumerate(("east", "west")):
            for c, channel in enumerate(("load", "price")):
                made = np.array(printed[model][f"{series}/{channel}"])
                np.testing.assert_allclose(made[:, 1], wanted.mean[s, :, c], rtol=1e-5)
                np.testing.assert_allclose(made[:, [0, 2]], wanted.quantiles[s, :, c][:, [0, 2]], rtol=1e-5)
    np.testing.assert_allclose(printed["west"], wanted.mean[1, :, 0], rtol=1e-5)
    assert {"TimeGPT-q-10", "TimeGPT-q-50", "TimeGPT-q-90"} <= set(printed["columns"])
    assert printed["first"] == f"{served.issuance.origin:%Y-%m-%d %H:%M:%S}"
    # The second is refused by the client itself.
    assert printed["refused"] == [
        "series.unnamed", None, "quantiles.not_trained", "dataset.unknown", "nixtla.unsupported",
        "series.covariates",
    ]  # fmt: skip


UNKNOWN = """
import sys, json
import numpy as np, pandas as pd
from nixtla import NixtlaClient
hours = np.arange(100)
frames = [pd.DataFrame({"unique_id": name, "ds": pd.date_range("2024-05-01", periods=100, freq="h"),
                        "y": level + level / 4 * np.sin(hours / 24 * 2 * np.pi)})
          for name, level in (("a", 10.0), ("b", 1e6), ("c", 0.001))]
client = NixtlaClient(api_key="any", base_url=sys.argv[1])
made = client.forecast(pd.concat(frames), h=12, level=[80])
print(json.dumps({key: part.drop(columns=["unique_id", "ds"]).values.tolist()
                  for key, part in made.groupby("unique_id")}))
"""


def test_series_that_the_model_does_not_know_are_scaled_by_their_own_history(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    crown: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
    client_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    tiny_document["datasets"]["tiny"]["channels"] = {"load": {"role": "target", "unit": "MW"}}
    installation = make_home(tiny_rows(), document=tiny_document)
    ingest(installation.dataset("tiny"))
    crown(installation)
    client = serve(installation)
    printed = json.loads(run(client_python("nixtla"), UNKNOWN, tmp_path, str(client.base_url)))
    level = {"a": 10.0, "b": 1e6, "c": 0.001}
    shapes = [np.array(printed[name]) / level[name] for name in level]
    for shape in shapes[1:]:
        np.testing.assert_allclose(shape, shapes[0], rtol=1e-4)
    assert np.allclose(shapes[0][:, 0], 1 + np.sin(99 / 24 * 2 * np.pi) / 4, rtol=1e-3)  # it repeats the last value


TRITON = """
import sys, json
import numpy as np
import tritonclient.http as triton
given = json.load(open(sys.argv[2]))
client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
assert client.is_model_ready("tiny", "repeat_last-1") and not client.is_model_ready("tiny", "nobody")
assert not client.is_model_ready("nobody")
assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
found = {"metadata": client.get_model_metadata("tiny", "champion")}
def inputs(binary, kind=np.float64, name="FP64"):
    made = []
    for role in ("targets", "past"):
        values = np.array(given[role], dtype=kind)
        made.append(triton.InferInput(role, list(values.shape), name))
        made[-1].set_data_from_numpy(values, binary_data=binary)
    for role in ("series", "start"):
        made.append(triton.InferInput(role, [2], "BYTES"))
        made[-1].set_data_from_numpy(np.array(given[role], dtype=object), binary_data=binary)
    return made
ask = {"horizon": 30}
outputs = lambda binary: [triton.InferRequestedOutput(name, binary_data=binary) for name in ("quantiles", "mean")]
answers = {
    "bytes": client.infer("tiny", inputs(True), parameters=ask, request_id="7"),
    "json": client.infer("tiny", inputs(False), outputs=outputs(False), parameters=ask),
    "mixed": client.infer("tiny", inputs(True), "repeat_last-1", outputs=outputs(True), parameters=ask),
    "single": client.infer("tiny", inputs(True, np.float32, "FP32"), parameters=ask),
}
for name, answer in answers.items():
    found[name] = [answer.as_numpy("mean").tolist(), answer.as_numpy("quantiles").tolist()]
assert answers["bytes"].get_response()["id"] == "7"
found["refused"] = []
spoilt = inputs(True)
values = np.array(given["targets"]); values[0, 3, 1] = np.nan
spoilt[0].set_data_from_numpy(values)
for wrong in (spoilt, inputs(True)[1:], inputs(True) + [triton.InferInput("x", [0], "FP32")]):
    try:
        client.infer("tiny", wrong)
    except triton.InferenceServerException as error:
        found["refused"].append(error.message())
print(json.dumps(found))
"""


def test_tritons_client_gets_the_forecast_of_the_service(
    served: Served, expected: Callable[[int], Any], client_python: Callable[[str], Path], tmp_path: Path
) -> None:
    panel = clean(served.home.dataset("tiny").observations.read(version=0), served.home.config.datasets["tiny"])
    given = {
        "targets": panel.targets[:, -60:].tolist(),
        "past": panel.past[:, -60:].tolist(),
        "series": list(panel.series),
        "start": [panel.time(panel.steps - 60).isoformat()] * 2,
    }
    file = tmp_path / "given.json"
    file.write_text(json.dumps(given))
    address = str(served.client.base_url).removeprefix("http://").rstrip("/")
    printed = json.loads(run(client_python("tritonclient"), TRITON, tmp_path, address, str(file)))
    wanted = expected(30)
    for name in ("bytes", "json", "mixed", "single"):
        np.testing.assert_allclose(printed[name][0], wanted.mean, rtol=1e-4 if name == "single" else 1e-6)
        np.testing.assert_allclose(printed[name][1], wanted.quantiles, rtol=1e-4 if name == "single" else 1e-6)
    assert [tensor["name"] for tensor in printed["metadata"]["inputs"]] == ["series", "start", "targets", "past"]
    assert printed["metadata"]["versions"] == ["repeat_last-1"]
    assert "window 0.price[3]" in printed["refused"][0]
    assert "[tensor.missing]" in printed["refused"][1]
    assert "[tensor." in printed["refused"][2]


MLFLOW = """
import sys, json
import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
host, _, port = sys.argv[1].removeprefix("http://").rstrip("/").partition(":")
client = ScoringServerClient(host, port)
client.wait_server_ready()
rows = pd.read_csv(sys.argv[2])
found = {"version": client.get_version()}
found["made"] = pd.DataFrame(client.invoke(rows, params={"horizon": 30}).get_predictions()).to_dict("list")
print(json.dumps(found))
"""


def test_mlflows_client_gets_the_forecast_of_the_service(
    served: Served, expected: Callable[[int], Any], rows: Path, tmp_path: Path
) -> None:
    printed = json.loads(run(sys.executable, MLFLOW, tmp_path, str(served.client.base_url), str(rows)))
    made, wanted = pl.DataFrame(printed["made"]), expected(30)
    for s, series in enumerate(("east", "west")):
        for c, channel in enumerate(("load", "price")):
            part = made.filter(series=series, channel=channel).sort("lead")
            np.testing.assert_allclose(part["mean"], wanted.mean[s, :, c], rtol=1e-5)
            np.testing.assert_allclose(part["quantile_0.9"], wanted.quantiles[s, :, c, 2], rtol=1e-5)
    assert made["time"][0] == f"{served.issuance.origin:%Y-%m-%dT%H:%M:%SZ}"


def test_every_form_of_mlflows_bodies_is_the_same_rows(served: Served, rows: Path) -> None:
    frame = pl.read_csv(rows)
    columns = frame.to_dict(as_series=False)
    split = {"columns": frame.columns, "data": [list(row) for row in frame.iter_rows()]}
    forms = {
        "dataframe_split": split, "dataframe_records": frame.to_dicts(), "instances": frame.to_dicts(),
        "inputs": columns,
    }  # fmt: skip
    answers = [served.client.post("/invocations", json={name: form}) for name, form in forms.items()]
    answers.append(served.client.post("/invocations", content=rows.read_bytes(), headers={"content-type": "text/csv"}))
    assert [answer.status_code for answer in answers] == [200] * 5, [answer.text[:200] for answer in answers]
    assert len({answer.text for answer in answers}) == 1
    assert len(answers[0].json()["predictions"]) == 2 * 2 * 24


ROW = {"series": "east", "time": "2024-01-01 00:00:00", "load": 1.0, "price": 1.0, "wind": 1.0}
WRONG = [
    (b"{", "body.not_json"),
    (b"{}", "body.malformed"),
    (json.dumps({"inputs": [ROW], "instances": [ROW]}).encode(), "body.malformed"),
    (json.dumps({"inputs": [ROW], "params": {"horizon": 0}}).encode(), "params.out_of_range"),
    (json.dumps({"inputs": [ROW | {"time": "secret"}]}).encode(), "forecast.malformed_time"),
    (json.dumps({"inputs": [ROW | {"load": "secret"}]}).encode(), "forecast.not_a_number"),
    (json.dumps({"inputs": [ROW | {"load": ["secret"]}]}).encode(), "forecast.not_a_number"),
    (json.dumps({"inputs": [ROW | {"load": float("inf")}]}).encode(), "history.not_finite"),
    (json.dumps({"inputs": [ROW | {"load": 10**400}]}).encode(), None),
    (json.dumps({"inputs": [ROW | {"series": "secret"}]}).encode(), "history.unknown_series"),
    (json.dumps({"inputs": [ROW | {"series": None}]}).encode(), "ingest.null_key"),
    (json.dumps({"inputs": [ROW, ROW]}).encode(), "history.repeated"),
    (json.dumps({"inputs": [ROW]}).encode(), "forecast.short_history"),
    (json.dumps({"inputs": [{"secret": 1}]}).encode(), "forecast.no_column"),
    (json.dumps({"inputs": []}).encode(), None),
    (json.dumps({"inputs": {"load": [1], "time": []}}).encode(), None),
    (json.dumps({"dataframe_split": {"columns": ["a", "a"], "data": []}}).encode(), "invocation.malformed"),
    (json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}).encode(), "invocation.malformed"),
    (b'{"inputs": [{"series": "\\ud800"}]}', "body.not_json"),
    (b"", "body.not_json"),
]


def test_an_invocation_that_cannot_be_answered_is_refused(served: Served, subtests: pytest.Subtests) -> None:
    for content, code in WRONG:
        with subtests.test(body=content[:90]):
            refused = served.client.post("/invocations", content=content, headers={"content-type": "application/json"})
            assert refused.status_code == 422, refused.text
            assert code is None or refused.json()["code"] == code, refused.text
            assert "secret" not in refused.text
    for content in (b"", b"\xff\xfe", b"a,b\n1", b"series\nsecret\n"):
        with subtests.test(csv=content):
            refused = served.client.post("/invocations", content=content, headers={"content-type": "text/csv"})
            assert refused.status_code == 422, refused.text
            assert "secret" not in refused.text


def infer_body(**changes: Any) -> dict[str, Any]:
    tensors = {
        "series": {"shape": [1], "datatype": "BYTES", "data": ["east"]},
        "start": {"shape": [1], "datatype": "BYTES", "data": ["2024-01-15T16:00:00Z"]},
        "targets": {"shape": [1, 48, 2], "datatype": "FP64", "data": [1.0] * 96},
        "past": {"shape": [1, 48, 1], "datatype": "FP32", "data": [[[1.0]] * 48]},
    }
    for name, change in changes.items():
        tensors[name] = tensors[name] | change
    return {"inputs": [{"name": name} | tensor for name, tensor in tensors.items()]}


TENSORS = [
    (infer_body(targets={"shape": [1, 48, 3]}), "tensor.shape"),
    (infer_body(targets={"shape": [-1, 48, 2]}), "tensor.shape"),
    (infer_body(targets={"shape": [2**62, 2**62, 2**62]}), "tensor.shape"),
    (infer_body(targets={"shape": [1, 1, 96]}), "tensor.shape"),
    (infer_body(targets={"datatype": "FP128"}), "tensor.datatype"),
    (infer_body(targets={"data": ["secret"] * 96}), "tensor.malformed"),
    (infer_body(targets={"data": None}), "tensor.malformed"),
    (infer_body(targets={"data": [-1.0] * 96}), "history.out_of_range"),
    (infer_body(targets={"parameters": {"binary_data_size": 768}}), "tensor.size"),
    (infer_body(targets={"parameters": {"binary_data_size": -1}}), "tensor.size"),
    (infer_body(series={"data": ["secret"]}), "history.unknown_series"),
    (infer_body(series={"data": [3]}), "tensor.malformed"),
    (infer_body(start={"data": ["secret"]}), "start.malformed"),
    (infer_body(start={"data": ["2024-01-15T16:17:00Z"]}), "history.off_grid"),
    (infer_body() | {"parameters": {"horizon": "many"}}, "horizon.not_a_number"),
    (infer_body() | {"parameters": {"horizon": 0}}, "horizon.out_of_range"),
    (infer_body() | {"parameters": {"horizon": 10**30}}, "horizon.out_of_range"),
    (infer_body() | {"outputs": [{"name": "secret"}]}, "tensor.unknown"),
    ({"inputs": []}, "tensor.missing"),
    ({}, "inputs.missing"),
]


def test_tensors_that_cannot_be_answered_are_refused(served: Served, subtests: pytest.Subtests) -> None:
    path = "/v2/models/tiny/infer"
    assert served.client.post(path, json=infer_body()).status_code == 200
    for body, code in TENSORS:
        with subtests.test(code=code, body=str(body)[:80]):
            refused = served.client.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (422, code), refused.text
            assert refused.json()["error"].endswith(f"[{code}]")
            assert "secret" not in refused.text
    for length in ("-1", "x", "9999999999999999999", "²"):
        with subtests.test(length=length):
            refused = served.client.post(
                path, content=b"{}", headers={b"Inference-Header-Content-Length": length.encode()}
            )
            assert (refused.status_code, refused.json()["code"]) == (422, "tensor.header"), refused.text


def nixtla_body(**changes: Any) -> dict[str, Any]:
    series = {"y": [1.0] * 192, "sizes": [48] * 4, "X": [[1.0] * 192], "X_future": None}
    top = {"freq": "h", "h": 3, "model": "tiny", "level": [80]}
    for name, change in changes.items():
        (top if name in top or name == "finetuned_model_id" else series)[name] = change
    return top | {"series": series}


def test_what_nixtlas_route_cannot_answer_is_refused(served: Served, subtests: pytest.Subtests) -> None:
    made = served.client.post("/v2/forecast", json=nixtla_body())
    assert made.status_code == 200, made.text
    assert (len(made.json()["mean"]), set(made.json()["intervals"])) == (12, {"lo-80", "hi-80"})
    assert served.client.post("/v2/forecast", json=nixtla_body(level=None)).json()["intervals"] is None
    for body, code in (
        (nixtla_body(sizes=[48] * 3), "series.sizes"),
        (nixtla_body(sizes=[0, 48, 48, 96]), "series.out_of_range"),
        (nixtla_body(X=None), "series.covariates"),
        (nixtla_body(X=[[1.0]]), "series.covariates"),
        (nixtla_body(freq="MS"), "freq.differs"),
        (nixtla_body(freq="9999999h"), "freq.differs"),
        (nixtla_body(level=[100]), "level.out_of_range"),
        (nixtla_body(level=[80] * 10**6), "level.too_long"),
        (nixtla_body(h=0), "h.out_of_range"),
        (nixtla_body(h=10_001), "h.out_of_range"),
        (nixtla_body(start_datetime=["secret"] * 4), "start_datetime.malformed"),
        (nixtla_body(start_datetime=["2024-01-15T16:00:00"]), "series.start_datetime"),
        (nixtla_body(start_datetime=["2024-01-15T16:17:00"] * 4), "history.off_grid"),
        (nixtla_body(y=[None] * 192), "forecast.history_gap"),
        (nixtla_body(y=["secret"] * 192), "series.not_a_number"),
        (nixtla_body(y=[-1.0] * 192), "history.out_of_range"),
        (nixtla_body(finetuned_model_id="secret"), "model.unknown"),
    ):
        with subtests.test(code=code):
            refused = served.client.post("/v2/forecast", json=body)
            assert refused.json()["code"] == code, refused.text
            assert refused.status_code == (404 if code == "model.unknown" else 422)
            assert "secret" not in refused.text
