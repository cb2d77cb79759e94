"""The walls of the house: who may import what, and that importing does nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
MODULES = sorted(path.relative_to(APP).as_posix() for path in APP.rglob("*.py"))
ENGINE = {
    "app.acceptance", "app.decode", "app.drafting", "app.model", "app.pairs", "app.race", "app.sampling", "app.session",
    "app.tokenizer",
}  # fmt: skip


def imports(module: str) -> set[str]:
    """Every module named by an import statement of app/`module`, at whatever depth, dotted."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((APP / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def uses(module: str, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(module))


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(room) for room in rooms)


@pytest.mark.parametrize("module", MODULES)
def test_walls(module: str) -> None:
    if not within(module, "ui/", "__main__.py"):
        assert not uses(module, "gradio")
        if not within(module, "bench/"):  # its report is a plotly page
            assert not uses(module, "plotly")
    if within(module, "ui/"):
        for forbidden in ("numpy", "app.backends", "torch", "openvino", *ENGINE):
            assert not uses(module, forbidden), forbidden
    if not within(module, "backends/torch.py", "backends/neuron.py", "distill/", "bench/", "acceptance_upstream.py"):
        assert not uses(module, "torch")
        assert not uses(module, "transformers")
    if not within(module, "backends/openvino", "backends/llama_graph.py"):
        assert not uses(module, "openvino")
    if not within(module, "__main__.py", "ui/"):
        assert not uses(module, "app.ui")


@pytest.mark.parametrize("module", ["errors.py", "trace.py", "metrics.py", "theory.py", "planner.py", "memory.py"])
def test_pure_modules_use_the_standard_library_only(module: str) -> None:
    for name in imports(module):
        root = name.split(".")[0]
        assert root == "app" or root in sys.stdlib_module_names, name


def test_importing_the_whole_default_install_does_no_work() -> None:
    """No heavy package is pulled in, no environment variable changes, nothing is printed."""
    modules = [
        "app." + module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for module in MODULES
        if not within(module, "ui/", "distill/", "bench/", "backends/", "__init__.py")
    ]
    code = (
        "import importlib, os, sys\n"
        "before = dict(os.environ)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'openvino', 'gradio', 'plotly', 'gguf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert dict(os.environ) == before\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
