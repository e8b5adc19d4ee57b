"""Kinds of hostile model folders: each changes a sound one and then recomputes the digests.

The guard alone must refuse ``KINDS``, whatever the manifest says. ``SLEEPERS`` are correct on the golden example, which
the attacker controls as well, and differ elsewhere: only the digest in the ledger detects them.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile import networks
from benchmarks.hostile.sound import HORIZON, LEVELS, LOOKBACK, SERIES, TARGETS, sealed
from forecast.runtime.manifest import GOLDEN, MANIFEST, NETWORK, Manifest
from forecast.runtime.model import ServedModel, session

Attack = Callable[[Path, Path], None]
"""Changes a sound folder; the second path is a marker file, which exists if the attack succeeds."""


def pickled(marker: Path) -> bytes:
    """Return a pickle that creates the marker file when it is loaded."""
    return f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()


# --- files that are not what their names say --------------------------------------------------------------------------


def _pickle(name: str, folder: Path, marker: Path) -> None:
    (folder / name).write_bytes(pickled(marker))


def _emptied(name: str, folder: Path, _: Path) -> None:
    (folder / name).write_bytes(b"")


def _cut(name: str, folder: Path, _: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def _missing(name: str, folder: Path, _: Path) -> None:
    (folder / name).unlink()


def _pipe(name: str, folder: Path, _: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _folder(name: str, folder: Path, _: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def _link(name: str, target: str, folder: Path, _: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def _link_to_the_sound_file(name: str, folder: Path, _: Path) -> None:
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to("elsewhere")


def _sparse(name: str, folder: Path, _: Path) -> None:
    os.truncate(folder / name, 2**40)


# --- networks ---------------------------------------------------------------------------------------------------------


def _network(make: Callable[[], Any], folder: Path, _: Path) -> None:
    networks.write(folder, make())


def _weights_beside(folder: Path, _: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(4 * HORIZON * TARGETS))
    networks.write(folder, networks.weights_elsewhere("weights.bin"))


# --- golden examples --------------------------------------------------------------------------------------------------


def _golden(change: Callable[[dict[str, Any]], dict[str, Any]], folder: Path, _: Path) -> None:
    with np.load(folder / GOLDEN) as stored:
        arrays = dict(stored)
    _save(folder, change(arrays))


def _save(folder: Path, arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    (folder / GOLDEN).write_bytes(buffer.getvalue())


class _Payload:
    def __init__(self, marker: Path) -> None:
        self._command = f"touch {marker}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self._command,)


def _objects(folder: Path, marker: Path) -> None:
    _golden(lambda arrays: arrays | {"expected": np.asarray([_Payload(marker)], object)}, folder, marker)


def _objects_as_names(folder: Path, marker: Path) -> None:
    _golden(lambda arrays: arrays | {"series": np.asarray([_Payload(marker)], object)}, folder, marker)


def _bomb(folder: Path, _: Path) -> None:
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (2**25,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with (
        zipfile.ZipFile(folder / GOLDEN, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("more.npy", "w") as entry,
    ):
        entry.write(header.getvalue())
        for _piece in range(2**25 * 8 // 2**22):
            entry.write(bytes(2**22))


def _claims(shape: str, folder: Path, _: Path) -> None:
    with np.load(folder / GOLDEN) as stored:
        arrays = dict(stored)
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with zipfile.ZipFile(folder / GOLDEN, "w") as archive:
        for name, values in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            content = buffer.getvalue()
            if name == "expected":
                content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64)
            archive.writestr(f"{name}.npy", content)


def _climbing(folder: Path, marker: Path) -> None:
    with np.load(folder / GOLDEN) as stored:
        arrays = dict(stored)
    with zipfile.ZipFile(folder / GOLDEN, "w") as archive:
        for name, values in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            up = "../" * 20 + str(marker.parent / name).lstrip("/")
            archive.writestr(f"{up}.npy", buffer.getvalue())
        archive.writestr("../" * 20 + str(marker).lstrip("/"), b"written")


def _one_window_for_none(arrays: dict[str, Any]) -> dict[str, Any]:
    first = {name: values[:1] for name, values in arrays.items()}
    return first | {"expected": np.empty((0, HORIZON, TARGETS, LEVELS))}


def _no_window(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: values[:0] for name, values in arrays.items()}


def _one_number(folder: Path, marker: Path) -> None:
    networks.write(folder, networks.answering(7.0))
    _golden(lambda arrays: arrays | {"expected": np.asarray(7.0)}, folder, marker)


# --- manifests --------------------------------------------------------------------------------------------------------


def _manifest(folder: Path, _: Path, **fields: Any) -> None:
    sealed(folder, **fields)


def _text(content: bytes, folder: Path, _: Path) -> None:
    (folder / MANIFEST).write_bytes(content)


def _moments(mean: float, deviation: float) -> dict[str, Any]:
    targets = {name: [[mean] * TARGETS, [deviation] * TARGETS] for name in SERIES}
    return {"targets": targets, "past": {name: [[5.0], [2.0]] for name in SERIES}}


def _offsets(number: float, levels: int = LEVELS) -> dict[str, Any]:
    return {
        "group": HORIZON,
        "quantile_offsets": [[[number] * levels] * TARGETS],
        "mean_offsets": [[number] * TARGETS],
    }


def _fields(**fields: Any) -> Attack:
    return partial(_manifest, **fields)


_FILES = {"network": NETWORK, "golden example": GOLDEN, "manifest": MANIFEST}
_EACH: Mapping[str, Callable[[str, Path, Path], None]] = {
    "a pickle": _pickle,
    "nothing": _emptied,
    "the first half": _cut,
    "a pipe": _pipe,
    "a folder": _folder,
    "a link to the sound file": _link_to_the_sound_file,
    "a terabyte of holes": _sparse,
    "no file": _missing,
}
_NETWORKS: Mapping[str, Callable[[], Any]] = {
    "weights at an absolute path": partial(networks.weights_elsewhere, "/etc/passwd"),
    "weights in another folder": partial(networks.weights_elsewhere, "../secret.bin"),
    "an array of 32 GiB": networks.huge_array,
    "an initialiser of 2^60 numbers": networks.shape_beyond_all_measure,
    "an initialiser of more than 2^64 numbers": networks.overflowing_shape,
    "an initialiser of a negative length": networks.negative_shape,
    "an op of a library of its own": networks.unknown_op,
    "an op that calls Python": networks.python_op,
    "5,000 branches within each other": partial(networks.nested, 5_000),
    "a function that calls itself": networks.function_that_calls_itself,
    "nodes that wait for each other": networks.cycle,
    "an index far beyond an array": partial(networks.index_beyond, 2**40),
    "an index far before an array": partial(networks.index_beyond, -(2**40)),
    "an answer that is not a number": partial(networks.answering, math.nan),
    "an infinite answer": partial(networks.answering, math.inf),
    "the same answer always": partial(networks.answering, 0.0),
    "other numbers than the golden example": partial(networks.scaled, 2.0),
    "operators of a version to come": partial(networks.of_opset, 10_000),
    "operators of no version": partial(networks.of_opset, -1),
    "an input nobody knows": partial(networks.named, "../../past_target"),
    "a text": lambda: b"import os; os.system('true')",
}
_GOLDENS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no window": _no_window,
    "an answer for no window": _one_window_for_none,
    "no answer": lambda arrays: {name: values for name, values in arrays.items() if name != "expected"},
    "an answer that is not a number": lambda arrays: arrays | {"expected": arrays["expected"] * np.nan},
    "windows of another length": lambda arrays: arrays | {"targets": arrays["targets"][:, 1:]},
    "windows that are texts": lambda arrays: arrays | {"targets": arrays["targets"].astype(str)},
    "infinite windows": lambda arrays: arrays | {"past": arrays["past"] * np.inf},
    "a series nobody knows": lambda arrays: arrays | {"series": np.asarray(["../north"] * 3)},
}
_MANIFESTS: Mapping[str, Attack] = {
    "a horizon below zero": _fields(horizon=-1),
    "a horizon of 10^18": _fields(horizon=10**18),
    "a lookback that is none": _fields(lookback=0),
    "an infinite step": _fields(step_seconds=math.inf),
    "moments that are no numbers": _fields(scaler=_moments(math.nan, 1.0)),
    "deviations of nought": _fields(scaler=_moments(40.0, 0.0)),
    "deviations below zero": _fields(scaler=_moments(40.0, -10.0)),
    "no series": _fields(scaler={"targets": {}, "past": {}}),
    "a calibration of no numbers": _fields(calibration=_offsets(math.nan)),
    "an infinite calibration": _fields(calibration=_offsets(math.inf)),
    "a calibration of other levels": _fields(calibration=_offsets(0.0, LEVELS + 1)),
    "bounds that are no numbers": _fields(lower=[math.nan, None]),
    "bounds the wrong way round": _fields(lower=[10.0, None], upper=[-10.0, None]),
    "bounds of more channels": _fields(lower=[0.0] * 5),
    "quantiles in disorder": _fields(quantiles=[0.9, 0.5, 0.1]),
    "quantiles without a median": _fields(quantiles=[0.1, 0.4, 0.9]),
    "quantiles beyond one": _fields(quantiles=[0.5, 7.0, 9.0]),
    "channels of another model": _fields(targets=["load", "price", "heat"]),
    "a channel twice": _fields(targets=["load", "load"]),
    "another lookback": _fields(lookback=LOOKBACK * 2),
    "fields nobody knows": _fields(on_load="os.system"),
    "a version that climbs": _fields(model_version="../../../etc/cron.d/job"),
    "a version with a line end": _fields(model_version="a\nb"),
    "lists within lists": partial(_text, b"[" * 1_000_000),
    "an object within objects": partial(_text, b'{"format":' * 100_000),
    "a number of a million digits": partial(_text, b'{"format":1,"lookback":' + b"9" * 1_000_000 + b"}"),
    "a text that is no UTF-8": partial(_text, b'{"format":1,"dataset":"\xff\xfe\xed\xa0\x80"}'),
    "another format": _fields(format=2),
}

KINDS: Mapping[str, Attack] = {
    **{f"{file}: {what}": partial(attack, name) for file, name in _FILES.items() for what, attack in _EACH.items()},
    **{f"{file}: a link to /dev/zero": partial(_link, name, "/dev/zero") for file, name in _FILES.items()},
    **{f"{file}: a link to another file": partial(_link, name, "/etc/passwd") for file, name in _FILES.items()},
    **{f"network: {what}": partial(_network, make) for what, make in _NETWORKS.items()},
    "network: weights in another file of the folder": _weights_beside,
    **{f"golden example: {what}": partial(_golden, change) for what, change in _GOLDENS.items()},
    "golden example: objects to unpickle": _objects,
    "golden example: names to unpickle": _objects_as_names,
    "golden example: a quarter of a gigabyte in a megabyte": _bomb,
    "golden example: an array that claims 2^60 numbers": partial(_claims, f"({2**60},)"),
    "golden example: an array that claims a negative length": partial(_claims, "(-1,)"),
    "golden example: an array whose head is nested": partial(_claims, "(" * 5_000 + ")" * 5_000),
    "golden example: names that climb out of the archive": _climbing,
    "golden example: one number for all": _one_number,
    **{f"manifest: {what}": attack for what, attack in _MANIFESTS.items()},
}
"""Kinds that are refused at once."""

STOPPED: Mapping[str, Attack] = {
    "network: an array that doubles forty times": partial(_network, networks.growing_array),
    "network: a loop without an end": partial(_network, networks.endless_loop),
    "network: hours of products": partial(_network, networks.long_product),
    "network: functions that double": partial(_network, networks.functions_that_double),
    "network: a chain of 50,000 nodes": partial(_network, networks.long_chain),
}
"""Kinds that first exhaust their time or memory."""


def _other_network(folder: Path, _: Path) -> None:
    networks.write(folder, networks.scaled(2.0))
    message = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    other = ServedModel(message, session(folder / NETWORK))
    with np.load(folder / GOLDEN) as stored:
        arrays = dict(stored)
    series = [str(name) for name in arrays["series"]]
    again = other.scaled_quantiles(arrays["targets"], arrays["past"], arrays["future"], series)
    _save(folder, arrays | {"expected": again})


SLEEPERS: Mapping[str, Attack] = {
    "network: other answers to batches of other sizes": partial(_network, networks.asleep),
    "network: another one, with a golden example of its own": _other_network,
    "manifest: a calibration of a thousand deviations": _fields(calibration=_offsets(1_000.0)),
}


def make(folder: Path, marker: Path, attack: Attack) -> None:
    """Change a sound folder, and recompute its digests unless the manifest itself is the target."""
    before = (folder / MANIFEST).read_bytes()
    attack(folder, marker)
    path = folder / MANIFEST
    if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**30 and path.read_bytes() == before:
        sealed(folder)
