"""The acceptor table on toys, where what must come out is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bench import cards
from app.bench.acceptors import table
from app.bench.cli import read_prompts
from app.errors import RequestError
from tests.support.pages import toy_session


def rows(**toy: object) -> dict[str, list[str]]:
    lines = list(table(toy_session(**toy), ["hello", "good day"], k=4, temperature=1.0, max_tokens=24, seed=0))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {name.strip("`"): rest for name, *rest in cells}


@pytest.mark.slow
def test_the_table_tells_lossless_from_lossy() -> None:
    found = rows(agreement="bad", seed=4)
    for name, (lossless, acceptance, length, distance, same) in found.items():
        assert 0 <= float(acceptance) <= 1
        assert 1 <= float(length) <= 4
        assert (distance == "0 (rounding)") == (lossless == "yes"), name
        assert name not in ("exact", "coupled") or same == "2 of 2"


@pytest.mark.slow
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
    file.write_text("[]")
    with pytest.raises(RequestError, match="holds no prompt; choose another with --prompts"):
        read_prompts(file)


def lead(title: str, speedup: float, same_text: bool = True) -> cards.Lead:
    return cards.Lead(title, speedup, 10, 10, 5, same_text)


def test_the_first_card_leads_most_with_one_text_and_the_others_follow_by_their_lead() -> None:
    listed = [{"title": title} for title in "abcd"]
    leads = [lead("a", 0.9), lead("b", 1.4), lead("c", 1.7, same_text=False), lead("d", 1.5)]
    assert [card["title"] for card in cards.ordered(listed, leads)] == ["d", "c", "b", "a"]


def test_every_card_is_a_request_and_is_written_as_it_was(tmp_path: Path) -> None:
    listed = cards.read_cards()
    for card in listed:
        request = cards.request_of(card["settings"])
        assert request.prompt
        assert request.k == card["settings"].get("k")
    cards.write(listed, tmp_path / "cards.json")
    assert (tmp_path / "cards.json").read_text(encoding="utf-8") == cards.CARDS.read_text(encoding="utf-8")


def test_a_cards_lead_is_that_of_its_runs() -> None:
    leads: list[cards.Lead] = []
    lines = list(cards.table(toy_session(agreement="good"), cards.candidates(["hello"], 4), 1, leads))
    assert len(leads) == 1
    assert leads[0].same_text
    assert leads[0].speculative_passes < leads[0].target_passes
    assert f"{leads[0].target_passes} → {leads[0].speculative_passes} | the same |" in lines[-1]
