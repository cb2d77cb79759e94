"""The acceptor table on toys, where what must come out is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bench.acceptors import table
from app.bench.cli import read_prompts
from app.errors import RequestError
from tests.support.pages import toy_session


def rows(**toy: object) -> dict[str, list[str]]:
    lines = list(table(toy_session(**toy), ["hello", "good day"], k=4, temperature=1.0, max_tokens=24, seed=0))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {name.strip("`"): rest for name, *rest in cells}


def test_the_table_tells_lossless_from_lossy() -> None:
    found = rows(agreement="bad", seed=4)
    for name, (lossless, acceptance, length, distance, same) in found.items():
        assert 0 <= float(acceptance) <= 1
        assert 1 <= float(length) <= 4
        assert (distance == "0 (rounding)") == (lossless == "yes"), name
        assert name not in ("exact", "coupled") or same == "2 of 2"


def test_a_perfect_draft_is_always_kept() -> None:
    assert rows(agreement="same")["rejection"][1] == "1.000"


def test_prompts_are_taken_from_every_category_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    entries = [("a", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("c", "5")]
    file.write_text(json.dumps([{"category": category, "prompt": prompt} for category, prompt in entries]))
    assert read_prompts(file) == ["1", "3", "4", "2", "5"]
    for bad in ("{", '{"prompt": 1}', '[{"prompt": "x"}]', "[1]"):
        file.write_text(bad)
        with pytest.raises(RequestError, match="no JSON list"):
            read_prompts(file)
