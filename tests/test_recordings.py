"""The recorded runs that the page offers: small, whole, and showing what they are there to show."""

from __future__ import annotations

import pytest

from app.record import metrics, theory, trace
from app.record.definitions import DEFINITIONS
from app.record.trace import RunFinished, RunStarted, Trace
from app.ui import about, recordings
from app.ui.assets import REPLAYS

FILES = sorted(REPLAYS.glob("*.jsonl"))


def recorded(name: str) -> Trace:
    return trace.read((REPLAYS / f"{name}.jsonl").read_text(encoding="ascii").splitlines())


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_each_is_small_whole_and_of_both_arms(name: str) -> None:
    assert (REPLAYS / f"{name}.jsonl").stat().st_size < 600_000
    events = recorded(name)
    assert isinstance(events[-1], RunFinished)
    summary = metrics.summary(events)
    assert summary["reason"] in ("stop", "length")
    assert set(summary["arms"]) == {"target", "speculative"}
    counts = summary["arms"]["speculative"]["counts"]
    assert all(counts[kind] for kind in ("accepted", "corrected", "rejected", "discarded", "bonus", "target"))
    assert theory.counterfactuals(events)


def test_they_show_one_text_the_coins_and_a_lossy_rule() -> None:
    assert [path.stem for path in FILES] == ["1-greedy", "2-coins", "3-lossy"]
    greedy, coins, lossy = (metrics.summary(recorded(path.stem)) for path in FILES)
    assert greedy["first_divergence"] is None
    assert greedy["total_variation"] < 1e-6
    assert coins["total_variation"] < 1e-6
    assert lossy["total_variation"] > 0.01
    rounds = trace.rounds(recorded("2-coins"), "speculative")
    assert any(round_.final is not None and len(round_.final.residual) > 2 for round_ in rounds)
    assert any(token.u is not None for round_ in rounds for token in round_.drafted)


def test_the_page_names_them_by_what_was_asked() -> None:
    names = {each["name"]: each["label"] for each in recordings.recordings()}
    for path in FILES:
        started = recorded(path.stem)[0]
        assert isinstance(started, RunStarted)
        assert started.request.prompt in names[path.stem]
        assert started.request.acceptor in names[path.stem]


def test_the_about_tab_draws_rounds_of_this_pair() -> None:
    pictured = about.page(None, recorded("1-greedy"), "# Title\n\nA card of a <model>.\n\n| k |\n| --- |\n| 5 |\n")
    assert "Both rounds are of the recorded run" in pictured
    assert "A card of a &lt;model&gt;." in pictured
    assert "<td>5</td>" in pictured
    assert "Both rounds are of the recorded run" not in about.page(None)
    assert all(name in pictured for name in DEFINITIONS)
