"""Both Neuron requirement sets resolve, and are all that an engine needs beside what a Neuron environment has.

A dry run of pip's resolver for the Neuron environments' Python, whatever the Python that runs the tests. It needs a
package index and installs nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.backends.neuron.packages import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = [("transformers-neuronx", "3.10"), ("nxd-inference", "3.10"), ("nxd-inference", "3.12")]

PAGE = (
    "gradio",
    "plotly",
    "openvino",
    "gguf",
    "markdown_it",
    "prometheus_client",
    "starlette",
    "uvicorn",
    "playwright",
)
"""Packages of the page and of other backends, which no Neuron environment has."""


def resolve(target: Path, python: str, *requirements: str) -> subprocess.CompletedProcess[str]:
    """pip's answer on what it would install for this Python on Linux."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["--python-version", python, "--only-binary=:all:", "--target", str(target), *requirements]
    command += ["--disable-pip-version-check"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@pytest.mark.network
@pytest.mark.parametrize(("library", "python"), PYTHONS)
def test_the_set_resolves_to_what_the_library_loads_with(tmp_path: Path, library: str, python: str) -> None:
    done = resolve(tmp_path, python, "-r", str(ROOT / BY_NAME[library].requirements))
    assert done.returncode == 0, done.stderr
    installs = json.loads(done.stdout)["install"]
    chosen = {each["metadata"]["name"].lower(): version(each["metadata"]["version"]) for each in installs}
    assert {"transformers", "numpy", "tokenizers", "jinja2", "safetensors"} <= set(chosen)
    assert not {"gradio", "plotly"} & set(chosen)  # the page has an environment of its own
    oldest, too_new, _ = BY_NAME[library].transformers
    assert oldest <= chosen["transformers"] < too_new
    if library == "transformers-neuronx":
        assert chosen["numpy"] < (2,)
    # Neuron's packages are placeholders in that index; and torch is the Neuron environment's own.
    assert not {name for name in chosen if "neuron" in name or name == "torch"}


@pytest.mark.parametrize("library", sorted(BY_NAME))
def test_the_file_says_where_neurons_packages_come_from(library: str) -> None:
    text = (ROOT / BY_NAME[library].requirements).read_text(encoding="utf-8")
    assert "pip.repos.neuron.amazonaws.com" in text
    assert "ls /opt | grep venv" in text
    assert BY_NAME[library].package.replace("_", "-") in text


def test_an_engine_needs_nothing_of_the_page() -> None:
    """What a run from the command line imports, and what the page's child does."""
    code = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {PAGE!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import app.__main__
app.__main__.parser()
for name in ("hosting.child", "hosting.recipe", "engine.session", "engine.custom_acceptor", "pairs.registry",
             "pairs.pair_files", "pairs.tokenizer", "cli.run", "cli.sweep", "record.sweep",
             "backends.checkpoints.model_files", "backends.neuron.loading", "backends.neuron.upstream"):
    importlib.import_module("app." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
