"""`pip install .`: the program as a package, with its command, its assets and the requirements of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.places import ASSETS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the package alone, and borrows what it requires from this one."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(place, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (place / "lib" / version / "site-packages" / "borrowed.pth").write_text("\n".join(borrowed))
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet", "--no-deps"]
    # the build's own requirements are borrowed too: no network
    options = ["--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, str(ROOT)], check=True)
    return place


def run(installed: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, from a folder that has nothing to do with the checkout."""
    return subprocess.run(
        [str(installed / "bin" / "speculative-playground"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "", **environment},
    )


def test_the_command_exports_a_recorded_run_with_the_packages_own_scripts(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "export", str(ASSETS / "replays" / "1-greedy.jsonl"), "--out", "run.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "<script>" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_models_are_kept_in_the_persons_cache_and_a_missing_one_is_a_sentence(installed: Path, tmp_path: Path) -> None:
    unset = {"PLAYGROUND_MODELS": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run(installed, tmp_path, "run", "--prompt", "Hello", **unset)
    assert done.returncode == 2
    assert str(tmp_path / "cache" / "speculative-playground" / "models") in done.stderr
    assert done.stderr.endswith("run speculative-playground setup to fetch it.\n")


def test_dependencies_are_those_of_the_requirements(installed: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import requires; print(*requires('speculative-playground'), sep='\\n')"
    python = str(installed / "bin" / "python")
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    written = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert required(done.stdout.splitlines()) == required(line for line in written if line and line[0] != "#")


def required(lines: Iterable[str]) -> set[tuple[str, str, str]]:
    """Name, versions and condition of each requirement, spelt alike."""
    each = map(Requirement, lines)
    return {(canonicalize_name(one.name), str(one.specifier), str(one.marker or "")) for one in each}
