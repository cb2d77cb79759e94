"""Locales, bytes that are no UTF-8, and files of odd names: it works, or it is one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from app.__main__ import main
from app.cli import serve
from app.cli.texts import text_of
from app.errors import RequestError
from app.pairs import pair_files
from app.places import ASSETS
from app.ui.desk import Desk
from app.wording import encodable, shown
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
ODD = b"a \xff\n\xc3\xa9.x"
NOT_UTF8 = os.fsdecode(b"\xff")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""The hardest: Python is told to believe the locale."""


def program(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=own | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--prompt", NOT_UTF8],
        ["run", "--prompt", "a", "--system", NOT_UTF8],
        ["run", "--prompt", "a", "--acceptor", NOT_UTF8],
        ["sweep", "--prompt", "a", "--prompt", NOT_UTF8],
        ["serve", "--allow-host", "a", "--allow-host", NOT_UTF8],
        ["serve", "--auth", f"ann:{NOT_UTF8}"],
        ["serve", "--backend", NOT_UTF8],
        ["plan", "--target", NOT_UTF8],
    ],
)
def test_what_is_no_text_is_a_sentence_that_names_the_flag(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    flag = next(flag for flag, value in pairwise(arguments) if NOT_UTF8 in value)
    assert capsys.readouterr().err.startswith(f"{flag} holds bytes that are no UTF-8 text: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--prompt", "a", "--target", f"/nowhere/{NOT_UTF8}"],
        ["run", "--prompt", "a", "--pair", f"/nowhere/{NOT_UTF8}"],
        ["serve", "--pairs", f"/nowhere/{NOT_UTF8}"],
        ["serve", "--replay", f"/nowhere/{NOT_UTF8}"],
        ["serve", "--auth-file", f"/nowhere/{NOT_UTF8}"],
        ["export", f"/nowhere/{NOT_UTF8}"],
        ["serve", "--host", "a" * 70],
    ],
)
def test_a_path_may_be_any_bytes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "\\udcff" in told or "--host" in told
    assert told.count("\n") == 1


def test_a_login_of_the_environment_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(serve.AUTH_VARIABLE, f"ann:{NOT_UTF8}")
    assert main(["serve"]) == 2


def test_what_an_ascii_locale_made_of_utf8_is_read_again() -> None:
    assert text_of("\udcc3\udca9", "--prompt") == "é"
    assert text_of("é", "--prompt") == "é"
    for wrong in (NOT_UTF8, "\ud800"):
        with pytest.raises(RequestError, match="--prompt holds bytes"):
            text_of(wrong, "--prompt")


def test_names_and_sentences_can_be_shown() -> None:
    assert shown(os.fsdecode(ODD)) == "a \\udcff\\né.x"
    assert encodable("é \udcff") == "é \\udcff"
    assert Desk().sentence(RequestError("\udcff.")) == "\\udcff."


def test_pairs_are_listed_by_names_that_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.toml")).write_text('dtype = "f32"')
    assert list(pair_files.listed(tmp_path)) == ["\\udcff"]


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, ASCII, {"PYTHONIOENCODING": "ascii"}])
def test_a_trace_of_an_odd_name_becomes_a_page_in_any_locale(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / os.fsdecode(b"\xfe \xc3\xa9")
    folder.mkdir()
    shutil.copy(next((ASSETS / "replays").glob("*.jsonl")), folder / os.fsdecode(b"\xff.jsonl"))
    done = program("export", os.fsencode(folder) + b"/\xff.jsonl", **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() or b"\xc3\xa9" in done.stdout
    assert (folder / os.fsdecode(b"\xff.html")).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_model_in_a_folder_of_an_odd_name_answers_in_an_ascii_locale(tmp_path: Path) -> None:
    model = tmp_path / os.fsdecode(ODD)
    save_tokenizer(save_directory(model, TINY | {"eos_token_id": 127}, weights(TINY)))
    done = program(
        *("run", "--raw", "--prompt", "é".encode(), "--target", bytes(model), "--dtype", "f32"),
        *("--drafter", "lookup", "--max-tokens", "4"),
        PLAYGROUND_MODELS=str(tmp_path / "models"),
        **ASCII,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"speculative" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("command", ["plan", "cache"])  # one fails as it prints, one as what it printed goes out
def test_an_output_that_is_full_is_a_sentence(command: str) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(
            [sys.executable, "-m", "app", command],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "The output cannot be written (No space left on device); send it elsewhere.\n"
