"""Load hostile model folders as the service does, then mutations of a sound one. Writes two files into results/.

python -m benchmarks.hostile --mutations 5000

Fails if a file was executed, an exception escaped, or a hostile kind was loaded, or if the service would serve a folder
whose manifest differs from the ledger's.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.hostile.kinds import KINDS, SLEEPERS, STOPPED, Attack, make
from benchmarks.hostile.mutations import mutate
from benchmarks.hostile.sound import store_sound
from benchmarks.hostile.trials import Outcome, tried
from benchmarks.results import write_rows
from forecast.errors import ForecastError
from forecast.runtime.manifest import manifest_digest
from forecast.runtime.sandbox import load_guarded

RESULTS = Path(__file__).parent / "results"
_BATCH = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all folders; returns 1 after any failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        sound = Path(scratch) / "models" / "sound"
        store_sound(sound)
        load_guarded(sound, manifest_digest(sound))
        marker = Path(scratch) / "executed"
        kinds = [_kind(name, attack, sound, marker) for name, attack in {**KINDS, **STOPPED, **SLEEPERS}.items()]
        write_rows(options.results / "kinds.csv", kinds)
        mutations, served = _mutations(options.mutations, options.seed, sound)
        executed = int(marker.exists())
    write_rows(options.results / "mutations.csv", mutations)
    wrong = [row for row in kinds if not row["is_as_meant"]] + [row for row in mutations if row["outcome"] == "raised"]
    served += sum(bool(row["served_by_the_ledger"]) for row in kinds)
    for row in wrong:
        sys.stderr.write(f"{row}\n")
    counts: Counter[str] = Counter()
    for row in mutations:
        counts[f"{row['outcome']} {row['message']}" if row["outcome"] == "loaded" else row["outcome"]] += row["count"]
    sys.stdout.write(
        f"{len(KINDS) + len(STOPPED)} kinds and {len(SLEEPERS)} sleepers, {options.mutations} mutations "
        f"({', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}) in "
        f"{time.monotonic() - begun:.0f} s: {executed} executed, {served} served, {len(wrong)} wrong\n"
    )
    return 1 if executed or served or wrong else 0


def _kind(name: str, attack: Attack, sound: Path, marker: Path) -> dict[str, Any]:
    folder = sound.parent / "attacked"
    shutil.copytree(sound, folder)
    make(folder, marker, attack)
    begun = time.monotonic()
    code = _refusal(folder, None)
    seconds = time.monotonic() - begun
    of_the_ledger = _refusal(folder, manifest_digest(sound))
    shutil.rmtree(folder)
    sys.stderr.write(f"{name}: {code or 'loaded'} after {seconds:.1f} s\n")
    return {
        "kind": name,
        "refused_as": code,
        "seconds": round(seconds, 2),
        "refused_by_the_ledger_as": of_the_ledger,
        "served_by_the_ledger": not of_the_ledger,
        "is_as_meant": bool(code) is (name not in SLEEPERS),
    }


def _refusal(folder: Path, digest: str | None) -> str:
    try:
        load_guarded(folder, digest)
    except ForecastError as error:
        return error.code
    return ""


def _mutations(count: int, seed: int, sound: Path) -> tuple[list[dict[str, Any]], int]:
    """Count the outcomes by file and mutation, and the folders that the service would serve."""
    chance, digest, served = random.Random(seed), manifest_digest(sound), 0  # noqa: S311 - to be the same again
    counts: Counter[tuple[str, str, Outcome]] = Counter()
    for first in range(0, count, _BATCH):
        with tempfile.TemporaryDirectory(prefix="mutated-") as scratch:
            folders = [Path(scratch) / str(number) for number in range(first, min(first + _BATCH, count))]
            made = [mutate(sound, folder, chance) for folder in folders]
            for (file, way), outcome in zip(made, tried(folders, sound), strict=True):
                counts[file, way, outcome] += 1
            served += sum(not _refusal(folder, digest) for folder in folders)
        sys.stderr.write(f"{min(first + _BATCH, count)} of {count} mutations\n")
    return [
        {"file": file, "way": way, "outcome": outcome.kind, "message": outcome.message, "count": number}
        for (file, way, outcome), number in sorted(counts.items(), key=str)
    ], served


if __name__ == "__main__":
    sys.exit(main())
