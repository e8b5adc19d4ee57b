from __future__ import annotations

import ast
from pathlib import Path

import api
import forecast.runtime

PACKAGE = Path(api.__file__).parent
FILES = sorted({*PACKAGE.rglob("*.py"), *Path(forecast.runtime.__path__[0]).rglob("*.py")})
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch", "skops"}
CALLS = {"eval", "exec", "compile", "__import__", "import_module", "read_pickle"}


def test_nothing_that_serves_can_execute_what_it_reads() -> None:
    found = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            place = f"{file.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                found += [f"{place} {item.name}" for item in node.names if item.name.partition(".")[0] in MODULES]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
                found.append(f"{place} {node.module}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
                found.append(f"{place} {node.func.id}()")
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                is_off = isinstance(node.value, ast.Constant) and node.value.value is False
                found += [] if is_off else [f"{place} allow_pickle"]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}:
                given = {keyword.arg for keyword in node.keywords}
                found += [] if "allow_pickle" in given else [f"{place} np.load without allow_pickle=False"]
    assert len(FILES) > 40
    assert found == []


def test_the_service_loads_models_only_after_a_limited_process_has() -> None:
    loaders = {"load", "load_evaluated", "session"}
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "forecast.runtime.model":
                found += [f"{file.name}:{node.lineno} {item.name}" for item in node.names if item.name in loaders]
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [item.name for item in node.names] + [getattr(node, "module", None) or ""]
                found += [f"{file.name}:{node.lineno}" for name in names if name.startswith("onnxruntime")]
    assert found == []
