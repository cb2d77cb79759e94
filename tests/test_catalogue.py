"""The catalogue of pairs, and the command that lists them and answers which draft fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.__main__ import main
from app.pairs import catalogue, memory
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights


def test_every_pair_is_of_one_family_and_its_draft_pays() -> None:
    for pair in catalogue.pairs():
        assert pair.target.family == pair.draft.family
        assert pair.cost_ratio < 0.6
        assert pair.gain > 1, pair
        assert pair.bytes("int8") < pair.bytes("bf16") < pair.bytes("f32")


def test_parameters_follow_from_the_published_shapes() -> None:
    """Llama-3.1-8B, by hand: 32 layers of 4096, 14336 within, 8 key heads of 128, 128256 tokens, not tied."""
    layer = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    by_hand = 32 * layer + 2 * 128256 * 4096 + 4096
    (model,) = [model for model in catalogue.models() if model.id.endswith("Llama-3.1-8B-Instruct")]
    assert model.parameters == pytest.approx(by_hand / 1e6, rel=1e-4)
    assert model.need("bf16", 1).caches == 2 * 32 * 1024 * 2 * 4096


def test_the_list_says_what_fits_and_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 4_000_000_000)
    monkeypatch.setattr(catalogue, "bandwidth", lambda: 20e9)
    assert main(["pairs"]) == 0
    said = capsys.readouterr().out
    assert "meta-llama/Llama-3.1-8B-Instruct + meta-llama/Llama-3.2-1B-Instruct  (Llama 3.1; Llama 3.2, gated)" in said
    assert "does not fit: at int8 it needs" in said
    assert "fits here at f32" in said
    assert main(["pairs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["pairs"]
    assert len(rows) == len(catalogue.pairs())
    assert {row["fitting"] for row in rows} >= {None, "f32"}
    (llama,) = [row for row in rows if row["target"].endswith("3.1-8B-Instruct")]
    assert llama["ms_alone"] == pytest.approx(8030.3e6 * 1.03 / 20e9 * 1e3)


def test_a_target_is_told_its_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path))
    tiny = save_tokenizer(save_directory(tmp_path / "tiny", TINY, weights(TINY)))
    assert main(["pairs", "--for", str(tiny)]) == 0
    said = capsys.readouterr().out
    assert "of no family in the catalogue" in said
    assert "lookup" in said
    assert "distill" in said
    assert main(["pairs", "--for", str(tmp_path / "absent")]) == 2


def test_drafts_are_of_the_family_small_and_the_best_first() -> None:
    drafts = catalogue.drafts_for("llama-3", 8030)
    assert [draft.name for draft in drafts] == ["Llama-3.2-1B-Instruct"]
    assert [draft.name for draft in catalogue.drafts_for("llama-2", 13016)][:2] == ["llama-68m", "llama-160m"]
    assert catalogue.drafts_for("llama-3", 1236) == []


def test_the_memorys_pace_is_measured() -> None:
    assert 1e8 < catalogue.bandwidth() < 1e13
