"""The Neuron requirement set resolves: the page's packages together with an old transformers and numpy < 2.

A dry run of pip's resolver for the Neuron environment's Python, whatever the Python that runs the tests. It needs a
package index and installs nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "app" / "backends" / "requirements-neuron.txt"


def resolve(target: Path, *requirements: str) -> subprocess.CompletedProcess[str]:
    """pip's answer on what it would install for Python 3.10 on Linux."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["--python-version", "3.10", "--only-binary=:all:", "--target", str(target), *requirements]
    command += ["--disable-pip-version-check"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, ...]]:
    """Package -> version, as resolved."""
    done = resolve(tmp_path_factory.mktemp("neuron"), "-r", str(REQUIREMENTS))
    assert done.returncode == 0, done.stderr
    installs = json.loads(done.stdout)["install"]
    return {each["metadata"]["name"].lower(): version(each["metadata"]["version"]) for each in installs}


def test_the_set_resolves_for_python_3_10(chosen: dict[str, tuple[int, ...]]) -> None:
    assert {"gradio", "plotly", "transformers", "numpy", "tokenizers", "jinja2"} <= set(chosen)


def test_transformers_is_one_that_transformers_neuronx_loads_right_with(chosen: dict[str, tuple[int, ...]]) -> None:
    assert (4, 43, 3) <= chosen["transformers"] < (4, 48)
    assert chosen["numpy"] < (2,)
    assert chosen["huggingface-hub" if "huggingface-hub" in chosen else "huggingface_hub"] < (1,)


def test_no_neuron_package_is_taken_from_the_index(chosen: dict[str, tuple[int, ...]]) -> None:
    """There they are placeholders; and torch is the Neuron environment's own."""
    assert not {name for name in chosen if "neuron" in name or name == "torch"}
