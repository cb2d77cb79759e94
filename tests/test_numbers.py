"""Numbers and texts of the command line: every flag of every command refuses what means nothing, in a sentence."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.__main__ import main, parser
from app.cli import numbers
from app.errors import PairError
from app.pairs import pair_files

JUDGED_LATER = {"temperature", "top_p", "top_k", "seed", "max_tokens", "port", "max_tokens_limit", "max_waiting"} | {
    "run_seconds",
    "round_seconds",
    "memory_limit",
}
"""Flags of requests, which `engine.requests` judges for page, API and command line alike, and of `serve`."""
NONSENSE = ("nan", "-nan", "inf", "-inf", "1e999", "-1", "x", "", "1e", "9" * 5000, "1_0x", "\udcff")


def flags(of: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, argparse.Action]]:
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from flags(sub, (*path, name))
        elif action.option_strings and action.nargs != 0:
            yield " ".join((*path, action.option_strings[0])), action


PARSER = parser()
FLAGS = dict(flags(PARSER))
BOUNDED = sorted(name for name, action in FLAGS.items() if getattr(action.type, "__module__", "") == numbers.__name__)


def test_no_flag_takes_any_number_at_all() -> None:
    assert len(BOUNDED) > 30
    for name, action in FLAGS.items():
        if action.type in (int, float):
            assert action.dest in JUDGED_LATER, f"{name} takes nan, or -1: give it bounds by app.cli.numbers"


@pytest.mark.parametrize("name", BOUNDED)
def test_a_flag_refuses_what_is_no_number_of_its_kind(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As people would give it: exit code 2, and one sentence that names the flag."""
    for text in NONSENSE:
        with pytest.raises(SystemExit) as exit_:
            PARSER.parse_args([*name.split()[:-1], f"{name.split()[-1]}={text}"])
        assert exit_.value.code == 2
        told = capsys.readouterr().err
        assert name.split()[-1] in told
        assert told.count("\n") == 1, told


@pytest.mark.parametrize("name", BOUNDED)
def test_a_default_lies_within_its_flags_bounds(name: str) -> None:
    action = FLAGS[name]
    assert callable(action.type)
    if action.default is not None:
        assert action.type(str(action.default)) == action.default


@pytest.mark.parametrize(
    ("number", "good", "bad"),
    [
        (numbers.whole(2, 5), "2 5 +3", "1 6 2.0"),
        (numbers.real(0, most=2), "1e-9 2", "0 -1 2.1"),
        (numbers.real(most=1, below=True), "0 0.99", "-0.1 1"),
    ],
)
def test_bounds(number: object, good: str, bad: str) -> None:
    assert callable(number)
    for text in good.split():
        assert number(text) == float(text)
    for text in bad.split():
        with pytest.raises(argparse.ArgumentTypeError, match=r"is no .*number"):
            number(text)


@pytest.mark.parametrize(
    "line", ["threads = 0", "threads = -4", "n_positions = 0", "n_positions = 1", "tp_degree = -1"]
)
def test_a_pair_files_numbers_have_the_same_bounds(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pair.toml"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(PairError, match="write a whole number from"):
        pair_files.read(path)


REQUIRED = {"distill export": ("--out", "x"), "distill all": ("--minutes", "1"), "run": ("--prompt", "x")}
TEXTS = sorted(name for name, action in FLAGS.items() if action.type is None and action.choices is None)


@pytest.mark.parametrize("name", TEXTS)
def test_bytes_that_are_no_text_are_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the flag: what the system hands over may be any bytes."""
    required = REQUIRED.get(" ".join(name.split()[:-1]), ())
    arguments = [*name.split()[:-1], *required, name.split()[-1], os.fsdecode(b"caf\xe9")]
    if name.startswith("export"):
        arguments.append("trace.jsonl")
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "no UTF-8 text" in told
    assert told.count("\n") == 1, told
