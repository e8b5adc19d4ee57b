from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from forecast.errors import NotFoundError, StorageError
from forecast.runtime import sandbox
from forecast.runtime.manifest import GOLDEN, MANIFEST, NETWORK, manifest_digest
from forecast.runtime.sandbox import load_guarded, try_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.config.dataset import DatasetConfig
    from forecast.runtime.manifest import Manifest


def endless_loop(shapes: dict[str, tuple[object, ...]], horizon: int, targets: int) -> onnx.ModelProto:
    """Return a network whose loop has a condition that always holds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Add", ["sum", "sum"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    start = helper.make_tensor("start", TensorProto.FLOAT, [1], [0.0])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    level = helper.make_tensor("shape", TensorProto.INT64, [4], [1, horizon, targets, 1])
    nodes = [
        helper.make_node("Loop", ["", "true", "start"], ["end"], body=body),
        helper.make_node("Expand", ["end", "shape"], ["prediction"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ("B", horizon, targets, 1))
    graph = helper.make_graph(nodes, "endless", inputs, [output], [start, true, level])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def replace_network(folder: Path, content: bytes) -> str:
    """Put another network in place of the exported one, its digest included; return the new manifest's digest."""
    (folder / NETWORK).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["network_digest"] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return manifest_digest(folder)


@pytest.fixture
def stored(tmp_path: Path, tiny_config: DatasetConfig, store_model: Callable[..., Manifest]) -> Path:
    folder = tmp_path / "models" / "repeat_last-1"
    store_model(folder, tiny_config)
    return folder


def test_a_sound_model_is_tried_once_and_then_loaded_at_once(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_guarded(stored, manifest_digest(stored))
    monkeypatch.setattr(sandbox, "_try", lambda *_: pytest.fail("it was tried a second time"))
    assert load_guarded(stored, manifest_digest(stored)).manifest == first.manifest


def test_a_network_that_never_ends_is_stopped_and_refused(
    stored: Path, tiny_config: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(stored / GOLDEN) as golden:
        shapes: dict[str, tuple[object, ...]] = {"past_target": ("B", *golden["targets"].shape[1:])}
    endless = endless_loop(shapes, tiny_config.horizon, len(tiny_config.targets))
    digest = replace_network(stored, endless.SerializeToString())
    monkeypatch.setattr(sandbox, "_WALL_SECONDS", 6)
    began = time.monotonic()
    with pytest.raises(StorageError) as refused:
        load_guarded(stored, digest)
    assert refused.value.code == "model.hostile"
    assert time.monotonic() - began < 20


def test_a_network_that_takes_all_memory_is_refused(stored: Path) -> None:
    size = helper.make_tensor("size", TensorProto.INT64, [1], [2**33])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["past_target", "sum"], ["prediction"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("past_target", "prediction")]
    graph = helper.make_graph(nodes, "huge", ends[:1], ends[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(StorageError) as refused:
        load_guarded(stored, replace_network(stored, model.SerializeToString()))
    assert refused.value.code == "model.unusable"


def test_a_model_is_held_against_what_the_ledger_knows(stored: Path) -> None:
    known = manifest_digest(stored)
    replace_network(stored, (stored / NETWORK).read_bytes() + b"")
    with pytest.raises(StorageError) as refused:
        load_guarded(stored, known)
    assert refused.value.code == "model.corrupt"


def test_weights_outside_of_the_network_are_not_reached(stored: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4000))
    model = onnx.load(str(stored / NETWORK))
    weight = next(item for item in model.graph.initializer if item.name == "weight")
    weight.ClearField("raw_data")
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../secret.bin"), ("offset", "0"), ("length", "4")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    with pytest.raises(StorageError) as refused:
        load_guarded(stored, replace_network(stored, model.SerializeToString()))
    assert refused.value.code == "model.unusable"


def test_a_missing_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as refused:
        load_guarded(tmp_path / "nothing")
    assert refused.value.code == "model.not_found"


def test_a_model_that_the_ledger_does_not_know_is_refused_without_a_try(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_try", lambda *_: pytest.fail("it was tried"))
    with pytest.raises(StorageError) as refused:
        load_guarded(stored, "0" * 64)
    assert refused.value.code == "model.corrupt"


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_the_service_waits_for_no_pipe_in_place_of_a_manifest(stored: Path, digest: str | None) -> None:
    (stored / MANIFEST).unlink()
    os.mkfifo(stored / MANIFEST)
    with pytest.raises(StorageError, match="not a regular file") as refused:
        load_guarded(stored, digest)
    assert refused.value.code == "file.unreadable"


def test_what_a_pickle_would_do_never_happens(stored: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    payload = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    for name in (NETWORK, GOLDEN):
        before = (stored / name).read_bytes(), (stored / MANIFEST).read_bytes()
        (stored / name).write_bytes(payload)
        manifest = json.loads(before[1])
        field = "network_digest" if name == NETWORK else "golden_digest"
        manifest[field] = hashlib.sha256(payload).hexdigest()
        (stored / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(StorageError):
            load_guarded(stored, manifest_digest(stored))
        (stored / name).write_bytes(before[0])
        (stored / MANIFEST).write_bytes(before[1])
    assert not marker.exists()


def test_models_that_were_tried_together_are_not_tried_alone(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Path(shutil.copytree(stored, tmp_path / "again"))
    try_together([(folder, manifest_digest(folder)) for folder in (stored, again)])
    monkeypatch.setattr(sandbox, "_try", lambda *_: pytest.fail("it was tried a second time"))
    for folder in (stored, again):
        assert load_guarded(folder, manifest_digest(folder)).manifest.model_version


def test_a_bad_model_among_others_leaves_all_of_them_to_be_tried_alone(stored: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(stored, tmp_path / "bad"))
    (bad / NETWORK).write_bytes(b"no network")
    digests = {folder: manifest_digest(folder) for folder in (stored, bad)}
    try_together(digests.items())
    assert load_guarded(stored, digests[stored]).manifest.model_version
    with pytest.raises(StorageError) as refused:
        load_guarded(bad, digests[bad])
    assert refused.value.code == "model.corrupt"
