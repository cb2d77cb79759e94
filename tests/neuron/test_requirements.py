"""Both Neuron requirement sets resolve: the page's packages together with the transformers that each library loads with.

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

pytestmark = pytest.mark.network


def resolve(target: Path, python: str, *requirements: str) -> subprocess.CompletedProcess[str]:
    """pip's answer on what it would install for this Python on Linux."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["--python-version", python, "--only-binary=:all:", "--target", str(target), *requirements]
    command += ["--disable-pip-version-check"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@pytest.mark.parametrize(("library", "python"), PYTHONS)
def test_the_set_resolves_to_what_the_library_loads_with(tmp_path: Path, library: str, python: str) -> None:
    done = resolve(tmp_path, python, "-r", str(ROOT / BY_NAME[library].requirements))
    assert done.returncode == 0, done.stderr
    installs = json.loads(done.stdout)["install"]
    chosen = {each["metadata"]["name"].lower(): version(each["metadata"]["version"]) for each in installs}
    assert {"gradio", "plotly", "transformers", "numpy", "tokenizers", "jinja2"} <= set(chosen)
    oldest, too_new, _ = BY_NAME[library].transformers
    assert oldest <= chosen["transformers"] < too_new
    assert chosen["huggingface-hub" if "huggingface-hub" in chosen else "huggingface_hub"] < (1,)
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
