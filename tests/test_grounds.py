"""What a trace says an acceptor went by: recomputed here, and consistent with every verdict of a real run."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from app.acceptance import ACCEPTORS, Verdict
from app.engine.noise import Noise, Purpose
from app.engine.plain_softmax import PlainSoftmax
from app.engine.session import Session
from app.record import trace
from app.record.limits import TYPICAL_DELTA, TYPICAL_EPSILON
from app.record.trace import DraftedToken, Grounds, Request, Round, Sampling
from tests.support.pages import toy_session

JUDGED = ("accepted", "rejected")


def ran(acceptor: str, seeds: int = 3) -> list[Round]:
    session = toy_session(agreement="good", seed=2)
    requests = [
        Request(prompt="hello", max_tokens=60, k=5, acceptor=acceptor, sampling=Sampling(1.0, seed=seed))
        for seed in range(seeds)
    ]
    events = [event for request in requests for event in session.run(request)]
    drafting = [event for event in events if isinstance(event, Round) and event.drafted]
    assert {token.state for round_ in drafting for token in round_.drafted} == {"accepted", "rejected", "discarded"}
    return drafting


def judged(rounds: list[Round]) -> Iterator[tuple[Round, int, DraftedToken, Grounds]]:
    for round_ in rounds:
        for place, token in enumerate(round_.drafted):
            if token.state in JUDGED:
                assert token.grounds is not None
                yield round_, place, token, token.grounds


@pytest.mark.slow
def test_typical_keeps_what_is_above_its_bar() -> None:
    for _, _, token, grounds in judged(ran("typical")):
        assert grounds.entropy is not None
        assert grounds.bar is not None
        assert grounds.bar == pytest.approx(min(TYPICAL_EPSILON, TYPICAL_DELTA * math.exp(-grounds.entropy)))
        assert (token.state == "accepted") == (token.p > grounds.bar)
        # at temperature 1 the warped row is the plain one
        assert grounds.entropy == pytest.approx(token.target_entropy, abs=1e-4)


@pytest.mark.slow
def test_the_blocks_ratio_runs_over_the_window() -> None:
    """`block` alone judges every draft: its last passed coin counts."""
    for round_ in ran("block"):
        ratio = 1.0
        for token in round_.drafted:
            if token.grounds is None:  # behind an accepted stop token
                break
            ratio = min(1.0, ratio * token.p / token.q)
            assert token.grounds.prefix_ratio == pytest.approx(ratio, rel=1e-4)
        if round_.drafted[-1].grounds is not None:
            assert round_.drafted[-1].threshold == pytest.approx(ratio, rel=1e-4)


@pytest.mark.slow
def test_exact_shows_the_draw_the_target_made_itself() -> None:
    for round_, _, token, grounds in judged(ran("exact")):
        assert (grounds.own_id == token.id) == (token.state == "accepted")
        assert grounds.own_u is not None
        assert 0 <= grounds.own_u < 1
        if token.state == "rejected":
            assert round_.final is not None
            assert round_.final.id == grounds.own_id


def test_exacts_own_uniform_is_the_positions_own() -> None:
    row = np.array([0.25, 0.25, 0.5], np.float32)
    noise = Noise(7).at(11)
    (grounds,) = ACCEPTORS["exact"].grounds([0], row[None], np.stack([row, row]), noise)
    u = noise.uniform(0, Purpose.FINAL)
    assert grounds == Grounds(own_id=int(np.searchsorted(np.cumsum(row), u, side="right")), own_u=u)


@pytest.mark.slow
def test_coupled_shows_both_noise_sums_and_the_larger_one_won() -> None:
    for round_, _, token, grounds in judged(ran("coupled")):
        assert grounds.own_sum is not None
        if token.state == "accepted":
            assert (grounds.own_id, grounds.draft_sum) == (token.id, grounds.own_sum)
        else:
            assert round_.final is not None
            assert round_.final.id == grounds.own_id
            assert grounds.draft_sum is None or grounds.draft_sum < grounds.own_sum


def test_coupleds_sums_are_log_p_and_the_noise() -> None:
    row = np.array([0.0, 0.25, 0.75], np.float32)
    noise = Noise(7).at(11)
    gumbel = noise.gumbel(0, 3)
    for token in (1, 2):
        (grounds,) = ACCEPTORS["coupled"].grounds([token], row[None], np.stack([row, row]), noise)
        assert grounds.draft_sum == pytest.approx(math.log(row[token]) + gumbel[token], rel=1e-5)
        assert grounds.own_sum == pytest.approx(max(math.log(row[i]) + gumbel[i] for i in (1, 2)), rel=1e-5)
    (grounds,) = ACCEPTORS["coupled"].grounds([0], row[None], np.stack([row, row]), noise)
    assert grounds.draft_sum is None  # p is 0: no noise helps


@pytest.mark.slow
@pytest.mark.parametrize("acceptor", ["rejection", "lenient", "upstream"])
def test_where_the_coin_says_all_there_are_no_grounds(acceptor: str) -> None:
    assert {token.grounds for round_ in ran(acceptor) for token in round_.drafted} == {None}


@pytest.mark.parametrize("acceptor", ACCEPTORS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_traces_with_grounds_round_trip(acceptor: str, temperature: float) -> None:
    request = Request(prompt="hello", max_tokens=24, k=4, acceptor=acceptor, sampling=Sampling(temperature, seed=1))
    events = list(toy_session(agreement="good", seed=2).run(request))
    assert trace.read(trace.write(events)) == events


@pytest.mark.slow
def test_overlap_is_the_chance_that_rejection_keeps_a_draft() -> None:
    tokens = [token for round_ in ran("rejection", seeds=12) for token in round_.drafted if token.state in JUDGED]
    expected = [token.overlap for token in tokens]
    assert all(each is not None and 0 < each <= 1 + 1e-6 for each in expected)
    kept = sum(token.state == "accepted" for token in tokens) / len(tokens)
    assert sum(each or 0 for each in expected) / len(tokens) == pytest.approx(kept, abs=0.06)


def test_a_looked_up_token_has_no_divergence() -> None:
    session = toy_session(seed=1)
    request = Request(prompt="la la la la la la", max_tokens=40, k=4, drafter="lookup", sampling=Sampling(1.0))
    tokens = [token for event in session.run(request) if isinstance(event, Round) for token in event.drafted]
    assert tokens
    assert {token.divergence for token in tokens} == {None}
    assert {token.draft_model_prob for token in tokens} == {1.0}


def test_a_rule_of_the_users_own_needs_no_grounds() -> None:
    session = toy_session(seed=1)

    def keep_all(draft_ids, draft_probs, target_probs, noise):  # type: ignore[no-untyped-def]
        return Verdict(len(draft_ids), int(target_probs[-1].argmax()))

    from app.engine.custom_acceptor import _Custom

    own = Session(session.loaded, _Custom("mine", keep_all, keep_all))
    events = list(own.run(Request(prompt="hello", max_tokens=24, k=4, acceptor="mine")))
    tokens = [token for event in events if isinstance(event, Round) for token in event.drafted]
    assert {token.state for token in tokens} == {"accepted"}
    assert {token.grounds for token in tokens} == {None}


# --- the plain softmax ---


def exactly(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return np.asarray(weights / weights.sum())


def test_probability_entropy_and_divergence_are_those_of_float64() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(0, 3, 5000).astype(np.float32) for _ in range(2))
    q, p = exactly(ours), exactly(theirs)
    draft, target = PlainSoftmax(ours), PlainSoftmax(theirs)
    assert draft.prob(17) == pytest.approx(q[17], rel=1e-4)
    assert target.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
    assert draft.divergence(target) == pytest.approx((q * np.log(q / p)).sum(), rel=1e-4)
    assert draft.divergence(draft) == pytest.approx(0, abs=1e-6)


def test_a_draft_that_knows_few_ids_is_compared_on_those() -> None:
    theirs = np.array([1.0, 2.0, 0.0, -1.0], np.float32)
    kept = np.array([1, 3])
    draft, target = PlainSoftmax(np.array([0.5, 0.0], np.float32), kept), PlainSoftmax(theirs)
    q, p = exactly(np.array([0.5, 0.0])), exactly(theirs)[kept]
    assert draft.divergence(target) == pytest.approx((q * np.log(q / p)).sum(), rel=1e-5)
    assert [draft.prob(token) for token in range(5)] == [0.0, pytest.approx(q[0]), 0.0, pytest.approx(q[1]), 0.0]


def test_what_the_other_cannot_say_costs_much_but_not_infinitely() -> None:
    draft = PlainSoftmax(np.zeros(6, np.float32))
    target = PlainSoftmax(np.array([0, 0, 0, -np.inf], np.float32))
    assert 30 < draft.divergence(target) < 80
    assert target.prob(3) < 1e-30
    assert target.entropy == pytest.approx(math.log(3))
    assert PlainSoftmax(np.array([5.0, -np.inf], np.float32)).entropy < 1e-30
