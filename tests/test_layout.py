"""Laws of the layout that no linter checks; import-linter checks who may import whom."""

from __future__ import annotations

import ast
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("forecast", "pipelines", "models", "kernels", "api")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PACKAGES = sorted({path.parent for path in MODULES if path.name == "__init__.py"})
MOST_MODULES = 20


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_a_package_is_small_enough_to_be_read_at_a_look(package: Path) -> None:
    assert len(list(package.glob("*.py"))) <= MOST_MODULES + 1  # and its __init__


@pytest.mark.parametrize("package", [path for path in PACKAGES if len(path.relative_to(ROOT).parts) <= 2], ids=name_of)
def test_a_package_has_a_readme(package: Path) -> None:
    assert 5 <= len((package / "README.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_a_public_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name_of(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_name_says_told(path: Path) -> None:
    allowed = {"api/schemas/deprecated.py"}  # the field of the release before
    with tokenize.open(path) as stream:
        names = {token.string for token in tokenize.generate_tokens(stream.readline) if token.type == tokenize.NAME}
    assert name_of(path) in allowed or {name for name in names if "told" in name.split("_")} == set()
