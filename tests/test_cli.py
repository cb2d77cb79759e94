"""The command line on the embedded pair: what `run` prints, and that bad input is one sentence and exit code 2."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import main
from app.backends.openvino.loading import DEFAULT_DTYPE
from app.bench import cards
from app.engine.pair import Pair
from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.places import ASSETS
from app.record import Metrics, after, open_trace, trace
from tests.support.command import refusal

PROMPT = "Explain what a transformer language model is, in three sentences."


@pytest.fixture(autouse=True)
def loaded_once(load_embedded: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loader as the command line's, each precision of the embedded pair loaded once for all tests."""
    load = pairs.load

    def cached(options: PairOptions) -> Pair:
        return load_embedded(DEFAULT_DTYPE) if options == PairOptions() else load(options)

    monkeypatch.setattr(pairs, "load", cached)


Run = Callable[..., tuple[list[trace.Event], dict[str, Any]]]


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*flags: str) -> tuple[list[trace.Event], dict[str, Any]]:
        assert main(["run", "--json", *flags]) == 0
        *lines, summary = capsys.readouterr().out.splitlines()
        return trace.read(lines), json.loads(summary)

    return run


def test_greedy_arms_print_the_same_text_bit_for_bit(run_json: Run) -> None:
    events, summary = run_json("--prompt", PROMPT, "--k", "5", "--temperature", "0", "--max-tokens", "48")
    target, speculative = summary["arms"]["target"], summary["arms"]["speculative"]
    assert summary["type"] == "summary"
    assert summary["first_divergence"] is None
    assert target["token_ids"] == speculative["token_ids"]
    assert target["text"] == speculative["text"] != ""
    assert speculative["mean_acceptance_length"] > 1 == target["mean_acceptance_length"]
    assert speculative["rounds"] < target["rounds"]
    assert summary["total_variation"] < 1e-5
    assert isinstance(events[-1], trace.RunFinished)


def test_a_seed_gives_the_same_tokens_every_time(run_json: Run) -> None:
    flags = ["--prompt", PROMPT, "--temperature", "0.8", "--top-p", "0.95", "--top-k", "50", "--max-tokens", "32"]
    first, again, other = (
        {name: arm["token_ids"] for name, arm in run_json(*flags, "--seed", seed)[1]["arms"].items()}
        for seed in ("7", "7", "8")
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("drafter", ["lookup", "draft+lookup"])
def test_a_text_that_is_rewritten_is_looked_up(run_json: Run, drafter: str) -> None:
    prompts = json.loads((ASSETS / "rewriting.json").read_text(encoding="utf-8"))
    for entry in prompts:
        _, summary = run_json("--prompt", entry["prompt"], "--drafter", drafter, "--k", "5")
        assert summary["first_divergence"] is None
        assert summary["arms"]["speculative"]["tokens"] > 40
        assert summary["arms"]["speculative"]["mean_acceptance_length"] > 2.5


def test_the_card_of_a_second_turn_shows_what_lookup_is_for(load_embedded: Callable[[str], Pair]) -> None:
    (card,) = (card for card in cards.read_cards() if card["settings"].get("messages"))
    metrics = Metrics(Session(load_embedded(DEFAULT_DTYPE)).run(cards.request_of(card["settings"])))
    assert metrics.first_divergence is None
    assert "def average(numbers):" in metrics.text("speculative")
    assert (metrics.arms["speculative"].mean_acceptance_length or 0) > 3


def test_the_trace_can_be_written_and_read(run_json: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    events, _ = run_json("--prompt", "Hi", "--max-tokens", "8", "--arm", "target", "--out", str(file))
    assert trace.read(file.read_text().splitlines()) == events


def test_a_conversation_goes_on_from_a_trace_or_from_a_list(run_json: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    flags = ["--max-tokens", "12", "--k", "4"]
    _, summary = run_json("--prompt", "Name a river.", "--system", "Be brief.", "--out", str(first), *flags)
    later, told = run_json("--messages", str(first), "--prompt", "Another one.", "--out", str(second), *flags)
    start = later[0]
    assert isinstance(start, trace.RunStarted)
    said = [(message["role"], message["content"]) for message in start.request.messages]
    text = summary["arms"]["target"]["text"]
    assert said == [("system", "Be brief."), ("user", "Name a river."), ("assistant", text)]
    assert told["first_divergence"] is None
    turns = tmp_path / "turns.json"
    turns.write_text(json.dumps(start.request.messages), encoding="utf-8")
    again, _ = run_json("--messages", str(turns), "--prompt", "Another one.", *flags)
    assert trace.rounds(again, "target")[-1].token_ids == trace.rounds(later, "target")[-1].token_ids
    assert len(after(open_trace(second))) == 5


def test_without_json_texts_and_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--prompt", "Count to five.", "--max-tokens", "16"]) == 0
    out = capsys.readouterr().out
    answer, figures = out.split("\n\ntarget  ")
    assert answer.strip()
    assert "the same text, bit for bit" in figures
    assert re.search(r"^speculative  16 tokens in \d+ passes, TPOT [\d.]+ ms", figures, re.MULTILINE)
    assert re.search(r"^tokens       \d+ accepted", figures, re.MULTILINE)


def test_one_arm_alone_and_two_texts_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--prompt", "Count.", "--max-tokens", "6", "--arm", "target"]) == 0
    assert "speedup" not in capsys.readouterr().out
    flags = ["--prompt", "Tell me of a town.", "--temperature", "1.2", "--seed", "3", "--max-tokens", "24"]
    assert main(["run", *flags]) == 0
    assert "The target alone, from whose text the one above parts at token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--prompt", ""], "prompt is empty"),
        (["--prompt", "hi", "--k", "99"], "window k is 99"),
        (["--prompt", "hi", "--k", "0"], "window k is 0"),
        (["--prompt", "hi", "--temperature", "-1"], "temperature is -1"),
        (["--prompt", "hi", "--acceptor", "guess"], "guess"),
        (["--prompt", "word " * 9000], "tokens long and the context holds 8192"),
        (["--prompt", "hi", "--k", "many"], "no window such as 4, nor auto"),
        (["--prompt", "hi", "--draft", "/nowhere"], "no model at /nowhere"),
        (["--prompt", "hi", "--target", "/nowhere.gguf"], "no model at /nowhere.gguf"),
        (["--prompt", "hi", "--dtype", "u4"], "no precision 'u4'"),
        (["--prompt", "hi", "--backend", "neuron"], "no pair of its own"),
        (["--prompt", "hi", "--backend", "abacus"], "no backend 'abacus'"),
        (["--prompt", "hi", "--threads", "0"], "--threads: '0' is no whole number"),
        (["--prompt", "hi", "--out", "/nowhere/run.jsonl", "--max-tokens", "2"], "cannot be written"),
        (["--prompt", "hi", "--answer", "target"], "give a .jsonl one with --messages"),
        (["--prompt", "hi", "--messages", "/nowhere.json"], "holds no conversation"),
        (["--prompt", "hi", "--messages", "/nowhere.jsonl"], "cannot be read"),
        ([], "required: --prompt"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], flags: list[str], fault: str
) -> None:
    message = refusal(capsys, "run", *flags)
    assert fault in message
    assert message.endswith(".\n")


def test_a_damaged_target_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and nothing more")
    assert main(["run", "--prompt", "hi", "--target", str(file)]) == 2
    assert "is damaged or no GGUF file" in capsys.readouterr().err


def test_a_trace_that_is_none_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text("hello\n")
    for bad in (file, tmp_path / "absent.jsonl"):
        assert main(["export", str(bad)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_sweep_measures_every_window_and_names_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--ks", "2,4", "--prompt", "Count to five.", "--max-tokens", "12", "--repeats", "2", "--json"]
    assert main(["sweep", *flags]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [point["k"] for point in found["points"]] == [2, 4]
    assert found["best_k"] in (2, 4)
    assert all(point["identical"] == point["runs"] == 2 for point in found["points"])
    assert all(point["interval"][0] <= point["speedup"] <= point["interval"][1] for point in found["points"])
    assert found["words"]
    assert "4 of 4" in err


def test_sweep_compares_acceptors_and_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "sweep.csv"
    flags = ["--prompt", "Count.", "--max-tokens", "8", "--repeats", "1", "--temperature", "1", "--csv", str(table)]
    assert main(["sweep", "--acceptors", "exact,lenient", *flags]) == 0
    out = capsys.readouterr().out
    assert "exact" in out
    assert "Each was run once" in out
    lines = table.read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["variant", "exact", "lenient"]


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--ks", "1,2"], "k = 1 cannot be swept"),
        (["--ks", "two"], "no list of windows"),
        (["--temperatures", "warm"], "no list of numbers"),
        (["--acceptors", "fair"], "no acceptor 'fair'"),
        (["--count", "0"], "--count: '0' is no whole number"),
        (["--repeats", "0"], "--repeats: '0' is no whole number"),
        (["--prompts", "/nowhere.json"], "no JSON list"),
    ],
)
def test_a_sweep_that_cannot_work_is_a_sentence(
    capsys: pytest.CaptureFixture[str], flags: list[str], fault: str
) -> None:
    assert fault in refusal(capsys, "sweep", *flags)
