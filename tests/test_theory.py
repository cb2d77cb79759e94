"""The papers' formulas at values worked out by hand, and what a recorded trace says of other windows and acceptors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.record import theory
from app.record.metrics import Metrics
from app.record.trace import Alternative, DraftedToken, Event
from tests.support.traces import SPECULATIVE, drafted, final, speculative_round, started, target_arm, texts, trace


def test_expected_tokens_by_hand() -> None:
    assert theory.expected_tokens(0.5, 3) == pytest.approx(1 + 0.5 + 0.25)
    assert theory.expected_tokens(0.0, 5) == 1.0
    assert theory.expected_tokens(1.0, 5) == 5.0


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 16))
def test_expected_tokens_is_the_geometric_sum(acceptance: float, k: int) -> None:
    assert theory.expected_tokens(acceptance, k) == pytest.approx(sum(acceptance**i for i in range(k)))


@pytest.mark.parametrize(("acceptance", "k"), [(-0.1, 4), (1.1, 4), (0.5, 0)])
def test_impossible_acceptance_or_window_is_refused(acceptance: float, k: int) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        theory.expected_tokens(acceptance, k)


def test_predicted_speedup_of_theorem_3_8() -> None:
    assert theory.predicted_speedup(0.8, 5, 0.1) == pytest.approx((1 - 0.8**5) / (0.2 * 1.4))
    assert theory.predicted_speedup(0.8, 1, 0.1) == 1.0
    assert theory.predicted_speedup(0.0, 4, 0.25) == pytest.approx(1 / 1.75), "a useless draft slows down"


def test_best_k_grows_with_acceptance_and_falls_with_cost() -> None:
    ks = range(1, 17)
    assert theory.best_k(0.3, ks, 0.2) < theory.best_k(0.9, ks, 0.2)
    assert theory.best_k(0.8, ks, 0.4) < theory.best_k(0.8, ks, 0.05)
    assert theory.best_k(0.0, ks, 0.1) == 1


def test_what_if_walks_the_recorded_text_again() -> None:
    events = [event for event in trace() if event is not SPECULATIVE[-1]]
    found = {other.k: other for other in theory.what_if(events)}
    assert set(found) == {2, 3, 4}
    # kept kept kept bonus | kept corrected: three windows of two
    assert found[2].expected_length == pytest.approx(6 / 3)
    # three, then a place that was never drafted: of the drafts after a kept one, 2 of 3 were kept
    assert found[3].expected_length == pytest.approx(6 / (1 + 1 + 1 / 3))
    assert found[4].expected_length == pytest.approx(6 / 2)
    # verify 9 ms at k = 1 and 12 ms at k = 4, a draft pass 1 ms, host 1 ms a round
    assert found[2].tpot_s == pytest.approx((0.010 + 0.001 + 0.001) / 2)
    assert found[4].tpot_s == pytest.approx((0.012 + 0.003 + 0.001) / 3)


def test_what_if_of_several_traces_pools_them() -> None:
    once, twice = theory.what_if(trace()), theory.what_if(trace(), trace())
    assert [other.k for other in once] == [other.k for other in twice]
    for one, two in zip(once, twice, strict=True):
        assert two.expected_length == pytest.approx(one.expected_length)
        assert two.tpot_s == pytest.approx(one.tpot_s)


def test_what_if_of_the_recorded_window_is_its_measured_length() -> None:
    events = [event for event in trace() if event is not SPECULATIVE[-1]]
    arm = Metrics(events).arms["speculative"]
    assert theory.what_if(events)[-1].expected_length == pytest.approx(arm.mean_acceptance_length)


def test_what_if_needs_a_speculative_arm_and_a_clock_needs_both() -> None:
    assert theory.what_if([started(), texts(), *target_arm(1, 2)]) == []
    alone = theory.what_if([started(), texts(), *SPECULATIVE])
    assert [other.tpot_s for other in alone] == [None, None, None]


def test_rejection_judged_again_on_its_own_trace_cuts_where_it_cut() -> None:
    coin = drafted(5, "rejected", q=0.8, p=0.2, u=0.75)
    events: list[Event] = [
        started(temperature=1.0),
        texts(),
        SPECULATIVE[0],
        speculative_round(1, (drafted(2, "accepted"), coin, drafted(3, "discarded")), final(4, "corrected")),
    ]
    by_name = {other.name: other for other in theory.counterfactuals(events)}
    assert by_name["rejection"].kept == (1.0,)
    assert by_name["rejection"].expected_length == 2.0
    # p: 0.4, then 0.2, then 0.4
    assert by_name["exact"].kept == pytest.approx((0.4 + 0.4 * 0.2 + 0.4 * 0.2 * 0.4,))
    # u = 0.75 against min(1, 2 p/q) = 0.5
    assert by_name["lenient"].kept == (1.0,)


def test_typical_uses_the_entropy_of_the_recorded_top() -> None:
    flat = tuple(Alternative(i, 0.1, 0.1) for i in range(10))
    threshold = min(0.09, 0.3 * math.exp(-math.log(10)))
    for p, kept in ((threshold * 0.9, 0.0), (threshold * 1.1, 1.0)):
        token = DraftedToken(1, "rejected", 0.5, p, 0.99, 0.1, (), flat)
        round_ = speculative_round(1, (token,), final(4, "corrected"))
        by_name = {other.name: other for other in theory.counterfactuals([started(), texts(), SPECULATIVE[0], round_])}
        assert by_name["typical"].kept == (kept,)


def test_no_drafts_no_counterfactuals() -> None:
    assert theory.counterfactuals([started(), texts(), *target_arm(1, 2)]) == []


@given(st.lists(st.floats(0, 1), max_size=15))
def test_expected_kept_lies_between_none_and_all(chances: list[float]) -> None:
    assert 0 <= theory.expected_kept(chances) <= len(chances)


def test_published_cost_ratios() -> None:
    assert [round(pair.cost_ratio, 2) for pair in theory.PUBLISHED] == [0.18, 0.22]
