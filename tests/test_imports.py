"""The walls of the house: who may import what, and that importing does nothing. `app/README.md` draws them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in APP.rglob("*.py")
}
MODULES = sorted(FILES)
PURE = ("app.record", "app.neuron", "app.errors", "app.machine", "app.wording")
"""Rooms that import the standard library alone, whatever they import from other rooms included."""
ENGINE = ("app.engine", "app.acceptance")
BACKENDS = sorted(path.name for path in (APP / "backends").iterdir() if path.is_dir() and path.name != "__pycache__")
THIRD_PARTY = {
    "gradio": ("app.ui",),
    "plotly": ("app.ui", "app.bench"),
    "torch": ("app.backends.torch", "app.backends.neuron", "app.distill", "app.bench"),
    "transformers": ("app.backends.torch", "app.backends.neuron", "app.distill", "app.bench"),
    "openvino": ("app.backends.openvino",),
    "ray": ("app.hosting",),
}
"""Packages that only some rooms may import."""


@cache
def imports(module: str, *, at_import: bool = False) -> frozenset[str]:
    """What the module's import statements name, dotted: packages, and modules of app. at_import: only those that run
    when it is imported, not the ones inside functions or for the type checker."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(FILES[module].read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                names.add(member if member in FILES else node.module)
        pending += ast.iter_child_nodes(node)
    return frozenset(names)


def own(module: str, *, at_import: bool = False) -> set[str]:
    """The modules of app that it imports."""
    return {name for name in imports(module, at_import=at_import) if name in FILES}


@cache
def reached(module: str) -> frozenset[str]:
    """Every module of app that importing this one imports, itself included."""
    found, pending = {module}, [module]
    while pending:
        new = own(pending.pop(), at_import=True) - found
        found |= new
        pending += new
    return frozenset(found)


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def uses(module: str, package: str) -> bool:
    return any(within(name, package) for name in imports(module))


@pytest.mark.parametrize("module", MODULES)
def test_walls(module: str) -> None:
    for package, rooms in THIRD_PARTY.items():
        assert within(module, *rooms) or not uses(module, package), package
    if not within(module, "app.cli", "app.ui", "app.__main__", "app.bench"):
        assert not uses(module, "app.ui")
    if within(module, "app.ui"):
        for forbidden in ("numpy", "app.backends", "app.pairs", *ENGINE):
            assert not uses(module, forbidden), forbidden
    if within(module, "app.backends", *ENGINE):
        for forbidden in ("app.cli", "app.bench", "app.distill"):
            assert not uses(module, forbidden), forbidden
    if within(module, "app.backends"):
        assert not uses(module, "app.engine.session"), "a backend knows no session"
    if within(module, *ENGINE):
        assert not uses(module, "app.backends")
        assert not uses(module, "app.pairs")
        source = FILES[module].read_text(encoding="utf-8").lower()
        for backend in BACKENDS:
            if backend not in ("torch", "checkpoints"):
                assert f'"{backend}"' not in source, f"the engine names the backend {backend}"


@pytest.mark.parametrize("module", MODULES)
def test_no_circle(module: str) -> None:
    for other in own(module, at_import=True) - {module}:
        assert module not in reached(other), f"{module} and {other} import each other"


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, *PURE)])
def test_pure_rooms_use_the_standard_library_only(module: str) -> None:
    for each in reached(module):
        for name in imports(each):
            root = name.split(".")[0]
            assert root == "app" or root in sys.stdlib_module_names, f"{each} imports {name}"
    for name in own(module):
        assert within(name, *PURE), name


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, *ENGINE)])
def test_the_engine_adds_numpy_only(module: str) -> None:
    for each in reached(module):
        for name in imports(each):
            root = name.split(".")[0]
            assert root in ("app", "numpy") or root in sys.stdlib_module_names, f"{each} imports {name}"


def test_importing_the_whole_default_install_does_no_work() -> None:
    """No heavy package is pulled in, no environment variable changes, nothing is printed."""
    heavy_rooms = ("app.ui", "app.distill", "app.bench", "app.backends")
    modules = [module for module in MODULES if not within(module, *heavy_rooms) and module != "app.__main__"]
    code = (
        "import importlib, os, sys\n"
        "before = dict(os.environ)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'openvino', 'gradio', 'plotly', 'gguf', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert dict(os.environ) == before\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_file_of_the_program_or_its_tests_is_longer_than_400_lines() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    written = [*FILES.values(), *tests, *(ROOT / "assets" / "web").glob("*.*"), ROOT / "launch.sh"]
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in written
    }
    assert len(lengths) > 300
    assert {name: length for name, length in lengths.items() if length > 400} == {}
