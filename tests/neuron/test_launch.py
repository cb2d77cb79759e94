"""launch.sh --backend neuron: which Python runs what. The environments are stand-ins that note how they are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOTHING = ("--backend", "neuron", "--target", "/nothing/here")


def environment(folder: Path, *libraries: str, complete: bool = True) -> Path:
    """An environment whose Python has these libraries, and the engine's packages where complete; it runs nothing."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    cases = "".join(f"*\"find_spec('{name}')\"*) exit 0 ;; " for name in libraries)
    python.write_text(
        "#!/bin/sh\n"
        f'printf "%s|%s\\n" "$*" "$PLAYGROUND_NEURON_PYTHON" >> {folder}/calls\n'
        f'case "$*" in {cases}*find_spec*) exit 1 ;; *"import jinja2"*) exit {int(not complete)} ;; esac\n'
    )
    python.chmod(0o755)
    return folder


def calls(folder: Path) -> str:
    path = folder / "calls"
    return path.read_text() if path.exists() else ""


def launch(*arguments: str, active: Path | None = None, page: Path | None = None) -> subprocess.CompletedProcess[str]:
    """launch.sh with the environment `active`, the page's packages in `page`."""
    variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    if active:
        variables["VIRTUAL_ENV"] = str(active)
    variables["PLAYGROUND_VENV"] = str(page or "/nothing/venv")
    command = ["bash", str(ROOT / "launch.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page's own environment, as if all was installed."""
    folder = environment(tmp_path / "page")
    (folder / ".installed-requirements.txt").write_text((ROOT / "requirements.txt").read_text() * 2)
    return folder


@pytest.mark.parametrize("arguments", [("run", *NOTHING), NOTHING, ("serve", *NOTHING)])
def test_without_a_neuron_environment_is_a_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    for active in (None, environment(tmp_path / "other")):
        done = launch(*arguments, active=active)
        assert done.returncode == 1
        assert done.stderr.startswith(
            "No Neuron environment is active: on an Inf2, Trn1 or Trn2 instance, activate one"
        )
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("library", ["transformers_neuronx", "neuronx_distributed_inference"])
def test_a_run_is_the_neuron_environments_own(tmp_path: Path, library: str) -> None:
    active = environment(tmp_path / "neuron", library)
    assert launch("run", *NOTHING, active=active).returncode == 0
    last = calls(active).splitlines()[-1]
    assert "run_module" in calls(active)
    assert last.endswith(f"{ROOT} run {' '.join(NOTHING)}|")
    assert "pip" not in calls(active)


@pytest.mark.parametrize("arguments", [NOTHING, ("serve", *NOTHING), ("serve", "--backend=neuron")])
def test_the_page_is_its_own_and_its_engine_neurons(tmp_path: Path, page: Path, arguments: tuple[str, ...]) -> None:
    active = environment(tmp_path / "neuron", "neuronx_distributed_inference")
    done = launch(*arguments, active=active, page=page)
    assert done.returncode == 0, done.stderr
    assert "run_module" not in calls(active)
    last = calls(page).splitlines()[-1]
    assert last.endswith(f"{ROOT} {' '.join(arguments)}|{active}/bin/python")


@pytest.mark.parametrize(
    ("libraries", "requirements"),
    [
        (("transformers_neuronx",), "requirements-neuron.txt"),
        (("neuronx_distributed_inference",), "requirements-neuron-nxd.txt"),
        (("transformers_neuronx", "neuronx_distributed_inference"), "requirements-neuron.txt"),
    ],
)
def test_the_engines_packages_are_added_once(tmp_path: Path, libraries: tuple[str, ...], requirements: str) -> None:
    active = environment(tmp_path / "neuron", *libraries, complete=False)
    done = launch("run", *NOTHING, active=active)
    assert done.returncode == 0
    assert "Adding the engine's packages" in done.stderr
    installs = [line for line in calls(active).splitlines() if "pip install" in line]
    assert len(installs) == 1
    assert installs[0].endswith(f"-r app/backends/{requirements}|")
    assert (ROOT / "app" / "backends" / requirements).exists()


def test_a_pair_file_that_names_neuron_is_enough(tmp_path: Path) -> None:
    pair = tmp_path / "pair.toml"
    pair.write_text('backend = "neuron"\ntarget = "/nothing/here"\n')
    done = launch("run", "--pair", str(pair))
    assert done.stderr.startswith("No Neuron environment is active")
