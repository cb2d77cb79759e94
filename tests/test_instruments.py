"""Calibration, histogram, along the answer: on traces written by hand, whose figures can be worked out on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.record import along_answer, calibrate, calibration_error, kept_per_round, nothing_kept
from app.record.calibration import confidence, merged
from app.record.intervals import ratio_interval, share_interval, student
from app.record.trace import Alternative, DraftedToken, Event, FinalToken, Round, State
from tests.support import traces


def draft(sure: float | None, state: State, id_: int = 2, **more: float) -> DraftedToken:
    plain = traces.drafted(id_, state)
    return replace(plain, draft_model_prob=sure, **more)  # type: ignore[arg-type]


def rounds(*windows: tuple[tuple[DraftedToken, ...], FinalToken | None]) -> list[Event]:
    prefill = Round(0, "speculative", (), traces.final(1, "target"), 0.0, 0.01, 0.0)
    each = [traces.speculative_round(i, drafts, last) for i, (drafts, last) in enumerate(windows, start=1)]
    return [traces.started(), traces.texts(), prefill, *each]


BONUS, CORRECTED = traces.final(5, "bonus"), traces.final(7, "corrected")


# --- calibration ---


def test_judged_drafts_are_counted_by_how_sure_the_draft_was() -> None:
    trace = rounds(
        ((draft(0.95, "accepted"), draft(0.85, "accepted")), BONUS),
        ((draft(0.91, "accepted"), draft(0.82, "rejected"), draft(0.99, "discarded")), CORRECTED),
        ((draft(1.0, "rejected"),), CORRECTED),
        ((draft(0.1, "rejected"),), CORRECTED),
    )
    bins = calibrate(trace)
    assert [(part.low, part.high, part.accepted, part.judged) for part in bins] == [
        (0.1, 0.2, 0, 1),
        (0.8, 0.9, 1, 2),
        (0.9, 1.0, 2, 3),
    ]
    assert [part.confidence for part in bins] == pytest.approx([0.1, 0.835, (0.95 + 0.91 + 1.0) / 3])
    assert bins[1].acceptance == 0.5
    assert bins[2].interval[0] < 2 / 3 < bins[2].interval[1]
    assert calibration_error(bins) == pytest.approx((0.1 + 2 * 0.335 + 3 * (0.95333 - 0.66667)) / 6, abs=1e-4)
    both = merged(bins[1:])
    assert both is not None
    assert (both.low, both.high, both.accepted, both.judged) == (0.8, 1.0, 3, 5)
    assert both.confidence == pytest.approx((0.95 + 0.85 + 0.91 + 0.82 + 1.0) / 5)


def test_nothing_judged_is_no_bin() -> None:
    assert calibrate(traces.target_arm(1, 2)) == []
    assert calibration_error([]) is None
    assert merged([]) is None


def test_looked_up_tokens_have_no_confidence() -> None:
    events = [
        replace(event, source="lookup") if isinstance(event, Round) else event
        for event in rounds(((draft(1.0, "accepted"),), BONUS))
    ]
    assert calibrate(events) == []


def test_version_1_tells_the_confidence_by_its_alternatives() -> None:
    token = draft(None, "accepted")
    assert confidence(token) == 0.5  # the alternative of its id
    assert confidence(replace(token, draft_alternatives=(Alternative(6, 0.3, 0.3),))) is None
    (part,) = calibrate(rounds(((token,), BONUS)))
    assert (part.low, part.accepted, part.judged) == (0.5, 1, 1)


# --- the histogram ---


def test_rounds_are_counted_by_the_drafts_they_kept() -> None:
    trace = traces.trace()
    assert kept_per_round(trace) == [0, 1, 0, 1]  # one kept one of three, one kept all three; the tail drafted none
    assert nothing_kept(trace) == []
    refused = rounds(((draft(0.5, "rejected"),), CORRECTED), ((draft(0.5, "accepted"),), BONUS))
    assert kept_per_round(refused) == [1, 1]
    assert nothing_kept(refused) == [1]
    assert kept_per_round(traces.target_arm(1, 2)) == []


# --- along the answer ---


def test_each_token_of_the_answer_has_its_place() -> None:
    kept = draft(0.9, "accepted", target_entropy=1.0, divergence=0.1, overlap=0.8)
    refused = draft(0.9, "rejected", target_entropy=2.0, divergence=0.5, overlap=0.3)
    last = replace(CORRECTED, target_entropy=2.0)
    bonus = replace(BONUS, target_entropy=3.0)
    places = along_answer(rounds(((kept, refused), last), ((kept,), bonus)))
    assert [place.index for place in places] == [0, 1, 2, 3, 4]
    assert [place.entropy for place in places] == [None, 1.0, 2.0, 1.0, 3.0]
    assert [place.divergence for place in places] == [None, 0.1, 0.5, 0.1, None]
    assert [place.overlap for place in places] == [None, 0.8, 0.3, 0.8, None]
    assert [place.kept for place in places] == [None, True, False, True, None]
    assert [place.acceptance for place in places] == pytest.approx([None, 1.0, 0.5, 2 / 3, 2 / 3])


def test_the_running_acceptance_looks_back_on_a_window() -> None:
    windows = [
        ((draft(0.9, state),), BONUS if state == "accepted" else CORRECTED) for state in ("accepted", "rejected")
    ]
    places = along_answer(rounds(*(windows * 3)), window=2)
    assert [place.acceptance for place in places if place.kept is not None] == [1.0, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_an_answer_of_version_1_has_acceptance_and_no_more() -> None:
    places = along_answer(traces.trace())
    assert len(places) == 8
    assert {place.entropy for place in places} == {None}
    assert places[-1].acceptance == 4 / 5
    assert along_answer(traces.target_arm(1, 2)) == []


def test_an_accepted_stop_token_ends_the_answer() -> None:
    (_, last) = along_answer(rounds(((draft(0.9, "accepted", id_=0),), None)))
    assert last.kept is True


# --- how sure a figure is ---


def test_a_share_of_few_cases_is_unsure() -> None:
    assert share_interval(0, 0) == (0.0, 1.0)
    low, high = share_interval(8, 10)
    assert [low, high] == pytest.approx([0.490, 0.943], abs=0.001)  # Wilson 1927
    assert share_interval(10, 10)[1] == pytest.approx(1.0)
    assert share_interval(800, 1000)[0] > 0.77


def test_the_interval_of_a_ratio_of_sums() -> None:
    def ratio(sums: Sequence[float]) -> float:
        return sums[0] / sums[1]

    assert ratio_interval([(1.0, 2.0)], ratio) is None
    # a slow minute that falls on both sides leaves the ratio as it was
    steady = ratio_interval([(1.0, 2.0), (3.0, 6.0), (2.0, 4.0)], ratio)
    assert steady == pytest.approx((0.5, 0.5))
    interval = ratio_interval([(1.0, 2.0), (1.1, 2.0), (0.9, 2.0)], ratio)
    assert interval is not None
    low, high = interval
    assert low < 0.5 < high
    # of equal weights it is the t interval of the mean: 0.5 +- 4.30 * 0.05 / sqrt(3), on a logarithmic scale
    assert high == pytest.approx(0.5 * 2.718281828 ** (4.30 * 0.1 / 3**0.5), rel=0.02)


def test_students_t_falls_to_the_normal() -> None:
    assert student(2) == 4.30
    values = [student(freedom) for freedom in range(1, 60)]
    assert values == sorted(values, reverse=True)
    assert student(19) == pytest.approx(2.093, abs=0.005)
    assert student(1000) == pytest.approx(1.962, abs=0.005)
