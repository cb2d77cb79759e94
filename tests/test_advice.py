"""Advice: each sentence on a trace that gives reason for it, silence on one that gives none; and each has its
figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.record import advise
from app.record.advice import Advice
from app.record.limits import AUTO, K
from app.record.trace import Event, Round, RunFinished, State
from tests.support import traces


def run(
    *kept: bool, k: K = 2, sure: float = 0.6, verify: float = 0.0095, draft: float = 0.001, temperature: float = 0.0
) -> list[Event]:
    """Rounds of one draft each, kept or not; the target alone takes 10 ms a token."""
    events: list[Event] = [traces.started(k=k, temperature=temperature), traces.texts()]
    tokens = 1 + sum(2 if each else 1 for each in kept)
    arm: list[Event] = [Round(0, "speculative", (), traces.final(1, "target"), 0.0, 0.01, 0.0)]
    for index, each in enumerate(kept, start=1):
        state: State = "accepted" if each else "rejected"
        token = replace(traces.drafted(2, state), draft_model_prob=sure)
        last = traces.final(5, "bonus" if each else "corrected")
        arm.append(Round(index, "speculative", (token,), last, draft, verify, 0.0, k=2))
    return [*events, *traces.target_arm(*[1] * tokens), *arm, RunFinished("length")]


def said(events: list[Event]) -> dict[str, Advice]:
    advice = advise(events)
    assert all(each.sentence.endswith(".") for each in advice)
    return {each.kind: each for each in advice}


def test_drafting_that_pays_is_said_to() -> None:
    advice = said(run(*[True] * 8))["pays"]
    assert advice.sentence.startswith("Drafting pays on this text: 1.9")
    assert advice.figure == pytest.approx(0.010 / (0.0105 / 2))


def test_drafting_that_costs_says_how_much() -> None:
    advice = said(run(*[False] * 8, verify=0.0099))["pays"]
    assert advice.sentence == "Drafting costs 9% on this text."
    assert advice.figure == pytest.approx(0.09)


def test_drafting_that_makes_no_difference_is_said_to() -> None:
    assert "saves on this text what it costs" in said(run(*[False] * 8, verify=0.009))["pays"].sentence


def test_auto_that_stopped_is_said_to_have() -> None:
    events = run(*[False] * 4, k=AUTO, verify=0.0199)
    last = len([event for event in events if isinstance(event, Round) and event.arm == "speculative"])
    alone = [Round(last + i, "speculative", (), traces.final(1, "target"), 0.0, 0.01, 0.0, k=1) for i in range(8)]
    more = [Round(5 + i, "target", (), traces.final(1, "target"), 0.0, 0.009, 0.001) for i in range(8)]
    sentence = said([*events[:-1], *alone, *more, events[-1]])["pays"].sentence
    assert sentence.startswith("Drafting costs ")
    assert sentence.endswith(" on this text; auto has stopped drafting.")
    assert "auto" not in said([*events])["pays"].sentence


def test_a_draft_surer_than_right_is_over_confident() -> None:
    advice = said(run(*[True, False] * 15, sure=0.9))["confidence"]
    assert advice.sentence == "The draft is over-confident above 0.8: 90% sure on average, 50% of 30 kept."
    assert advice.figure == pytest.approx(0.4)
    assert "confidence" not in said(run(*[True] * 9, False, sure=0.9))
    assert "confidence" not in said(run(True, False, sure=0.9))  # two cases prove nothing


def test_a_draft_righter_than_sure_is_too_unsure_where_no_coin_helps_it() -> None:
    advice = said(run(*[True] * 20, sure=0.3))["doubt"]
    assert advice.sentence == "The draft is too unsure of itself below 0.5: 30% sure on average, 100% of 20 kept."
    assert advice.figure == pytest.approx(0.7)
    assert "doubt" not in said(run(*[True] * 20, sure=0.3, temperature=1.0))


def test_rounds_with_nothing_kept_are_counted() -> None:
    advice = said(run(True, False, False, False))["nothing"]
    assert advice.sentence == "In 75% of the rounds that drafted nothing was kept."
    assert advice.figure == 0.75
    assert "nothing" not in said(run(True, True, False))


def test_a_window_kept_to_its_end_may_be_longer() -> None:
    advice = said(run(*[True] * 6))["window"]
    assert advice.sentence == "100% of the windows were kept to their end: a longer one than k = 2 may pay."
    assert advice.figure == 1.0
    assert "window" not in said(run(*[True] * 6, k=AUTO))


def test_a_window_too_wide_names_the_better_one() -> None:
    kept, refused = traces.drafted(2, "accepted"), traces.drafted(3, "rejected")
    lost = tuple(traces.drafted(4, "discarded") for _ in range(5))
    arm: list[Event] = [Round(0, "speculative", (), traces.final(1, "target"), 0.0, 0.01, 0.0)]
    last = traces.final(7, "corrected")
    arm += [Round(i, "speculative", (kept, refused, *lost), last, 0.007, 0.02, 0.0, k=8) for i in range(1, 9)]
    events = [traces.started(k=8), traces.texts(), *traces.target_arm(*[1] * 17), *arm, RunFinished("length")]
    sentence = said(events)["window"].sentence
    assert sentence.startswith("Drafts were kept too seldom for k = 8: judged by this run, k = 2 would take about ")


def test_a_draft_that_takes_most_of_the_time_is_named() -> None:
    advice = said(run(*[True] * 6, draft=0.02))["draft"]
    assert advice.sentence == "Drafting takes 68% of the time: a smaller draft or window may pay."
    assert advice.figure == pytest.approx(0.02 / 0.0295)


def test_a_run_that_did_not_draft_gives_none() -> None:
    assert advise([traces.started(arms="target"), traces.texts(), *traces.target_arm(1, 2, 3)]) == []
