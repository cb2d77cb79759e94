"""Every acceptor's verdicts: their shapes and their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.acceptance import ACCEPTORS, find
from app.engine.noise import Noise, Purpose, RoundNoise
from app.engine.sampling import warp
from app.engine.scored import DraftRows, HostRows
from app.errors import RequestError
from app.record.trace import Sampling
from tests.support.examples import examples

Rows = NDArray[np.float32]
LOSSLESS = [name for name, acceptor in ACCEPTORS.items() if acceptor.lossless]
NONE = np.zeros((0, 3), np.float32)


def rows(*values: list[float]) -> Rows:
    return np.array(values, np.float32)


# --- the registry ---


def test_find_gives_every_acceptor_with_its_promises() -> None:
    assert LOSSLESS == ["rejection", "exact", "block", "coupled"]
    assert [name for name, each in ACCEPTORS.items() if each.same_text] == ["exact", "coupled"]
    for name, acceptor in ACCEPTORS.items():
        assert find(name) is acceptor
        assert acceptor.description.endswith(".")
        assert "\n" not in acceptor.description
        assert len(acceptor.description) <= 120


@pytest.mark.parametrize("name", ["greedy", "", "os:system", "app.engine.acceptance:Rejection"])
def test_find_lists_the_names_and_loads_no_code(name: str) -> None:
    with pytest.raises(RequestError, match="rejection, exact, block, coupled, typical, lenient, upstream"):
        find(name)


# --- verdicts ---


def some_rows(rng: np.random.Generator, count: int, size: int, zeros: float, peaked: float) -> Rows:
    weights = rng.random((count, size)) ** peaked
    weights[rng.random((count, size)) < zeros] = 0
    weights[np.arange(count), rng.integers(size, size=count)] += 0.1
    some: Rows = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return some


@examples(250)
@given(
    name=st.sampled_from(list(ACCEPTORS)),
    seed=st.integers(0, 2**32),
    g=st.integers(0, 15),
    size=st.integers(2, 12),
    wider=st.integers(-1, 3),
    zeros=st.sampled_from([0.0, 0.5, 0.9]),
    peaked=st.sampled_from([0.5, 4.0, 40.0]),
    proposed=st.booleans(),
)
def test_verdicts_are_well_formed(
    name: str, seed: int, g: int, size: int, wider: int, zeros: float, peaked: float, proposed: bool
) -> None:
    """Whatever the rows: trimmed, padded, one-hot; and ids the draft drew, or any ids at all."""
    acceptor, rng, noise = ACCEPTORS[name], np.random.default_rng(seed), Noise(seed).at(seed % 100)
    draft_probs = some_rows(rng, g, size + wider, zeros, peaked)
    target_probs = some_rows(rng, g + 1, size, zeros, peaked)
    ids = [acceptor.propose(q, noise, i) if proposed else int(rng.integers(q.size)) for i, q in enumerate(draft_probs)]
    if proposed:
        assert all(draft_probs[i, token] > 0 for i, token in enumerate(ids))

    verdict = acceptor(ids, draft_probs, target_probs, noise)
    kept = verdict.num_accepted
    assert 0 <= kept <= g
    assert all(token < size and target_probs[i, token] > 0 for i, token in enumerate(ids[:kept]))
    assert target_probs[kept, verdict.final_id] > 0
    assert len(verdict.judgements) == (g if name == "block" else min(kept + 1, g))
    for i, judgement in enumerate(verdict.judgements):
        assert (judgement.u is None) == (judgement.threshold is None) == (name in ("exact", "coupled", "typical"))
        if judgement.u is not None and judgement.threshold is not None:
            assert 0 <= judgement.u < 1
            assert 0 <= judgement.threshold <= 1
            if name != "block":
                assert (judgement.u < judgement.threshold) == (i < kept)
    if verdict.residual is None:
        assert kept == g or name in ("exact", "coupled")
    else:
        assert kept < g
        assert verdict.residual.shape == (size,)
        assert verdict.residual.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
        assert verdict.residual[verdict.final_id] > 0
    if kept < g and name in ("rejection", "exact", "coupled"):
        assert verdict.final_id != ids[kept]  # it would have been kept
    assert acceptor(ids, draft_probs, target_probs, noise) == verdict

    distance = acceptor.total_variation(ids, draft_probs, target_probs)
    assert distance is not None
    if acceptor.lossless:
        assert 0 <= distance < 1e-6
    assert 0 <= distance <= 1 + 1e-6


@pytest.mark.parametrize("name", list(ACCEPTORS))
def test_at_temperature_0_every_acceptor_says_what_the_target_says(name: str) -> None:
    one_hot = np.eye(4, dtype=np.float32)
    verdict = find(name)([2, 0, 1], one_hot[[2, 0, 1]], one_hot[[2, 0, 3, 1]], Noise(1).at(5))
    assert (verdict.num_accepted, verdict.final_id) == (2, 3)
    verdict = find(name)([2, 0, 1], one_hot[[2, 0, 1]], one_hot[[2, 0, 1, 0]], Noise(1).at(5))
    assert (verdict.num_accepted, verdict.final_id, verdict.residual) == (3, 0, None)


@pytest.mark.parametrize("name", list(ACCEPTORS))
def test_the_target_alone_draws_from_its_row(name: str) -> None:
    p = rows([0.5, 0, 0.3, 0.2])
    draws = [find(name)([], NONE, p, Noise(seed).at(9)).final_id for seed in range(400)]
    assert np.bincount(draws, minlength=4) / 400 == pytest.approx(p[0], abs=0.08)
    if name != "coupled":  # the same draw for all, at the position's own
        assert draws == [find("rejection")([], NONE, p, Noise(seed).at(9)).final_id for seed in range(400)]


def test_rejection_on_three_tokens() -> None:
    p, q = rows([0.5, 0.2, 0.3], [0.1, 0.1, 0.8]), rows([0.2, 0.6, 0.2])
    seen = set()
    for seed in range(60):
        verdict = find("rejection")([1], q, p, Noise(seed).at(0))
        assert verdict.judgements[0].threshold == pytest.approx(0.2 / 0.6)
        seen.add(verdict.num_accepted)
        if verdict.num_accepted == 0:
            assert verdict.residual == pytest.approx([0.75, 0, 0.25])
    assert seen == {0, 1}
    assert find("rejection")([0], q, p, Noise(0).at(0)).judgements[0].threshold == 1


def test_a_token_the_draft_could_not_say_is_kept_only_where_the_target_can() -> None:
    p, q = rows([0, 1, 0], [1, 0, 0]), rows([1, 0, 0])
    assert find("rejection")([1], q, p, Noise(0).at(0)).num_accepted == 1
    assert find("rejection")([2], q, p, Noise(0).at(0)).num_accepted == 0


def test_a_draft_refused_by_rounding_alone_is_replaced_by_the_targets_own() -> None:
    p, q = rows([0.5, 0.5], [0.5, 0.5]), rows([0.5, 0.5])
    p[0, 0] = np.nextafter(np.float32(0.5), np.float32(0))

    class Late(RoundNoise):
        def uniform(self, offset: int, purpose: Purpose) -> float:
            return 1 - 2.0**-53

    verdict = find("rejection")([0], q, p, Late(Noise(0), 0))
    assert (verdict.num_accepted, verdict.final_id) == (0, 1)
    assert verdict.residual is p[0] or np.array_equal(verdict.residual, p[0])  # type: ignore[arg-type]


def test_typical_keeps_by_the_entropy_of_the_row() -> None:
    flat, sharp = [0.05] * 20, [0.93] + [0.07 / 19] * 19
    q = rows(flat)
    assert find("typical")([7], q, rows(flat, flat), Noise(0).at(0)).num_accepted == 1  # 0.05 > 0.3 / 20
    assert find("typical")([7], q, rows(sharp, flat), Noise(0).at(0)).num_accepted == 0
    assert find("typical")([0], q, rows(sharp, flat), Noise(0).at(0)).num_accepted == 1


def test_lenient_at_most_doubles_a_token() -> None:
    p, q = rows([0.2, 0.8], [1, 0]), rows([0.6, 0.4])
    assert find("lenient")([0], q, p, Noise(0).at(0)).judgements[0].threshold == pytest.approx(0.2 / 0.3)
    # out(0) = 0.6 * 2/3 = 0.4, twice p
    assert find("lenient").total_variation([0], q, p) == pytest.approx(0.2, abs=1e-6)


def test_upstream_drafts_its_argmax_whatever_the_noise() -> None:
    q = np.array([0.4, 0.6], np.float32)
    assert {find("upstream").propose(q, Noise(seed).at(0), 0) for seed in range(20)} == {1}
    # p = q: everything is kept, so the argmax is all it says
    assert find("upstream").total_variation([1], q[None], np.stack([q, q])) == pytest.approx(0.4)


def test_coupled_agrees_where_the_distributions_do() -> None:
    q = np.random.default_rng(0).dirichlet(np.ones(50)).astype(np.float32)
    coupled = find("coupled")
    for seed in range(50):
        noise = Noise(seed).at(3)
        ids = [coupled.propose(q, noise, i) for i in range(4)]
        assert coupled(ids, np.stack([q] * 4), np.stack([q] * 5), noise).num_accepted == 4


# --- rows of a pass, which answer without being whole, and arrays of the same numbers ---


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ACCEPTORS)
def test_rows_of_a_pass_are_judged_as_arrays_are(name: str, temperature: float) -> None:
    acceptor, sampling = ACCEPTORS[name], Sampling(temperature=temperature, top_p=0.9 if temperature else 1.0)
    rng, kept = np.random.default_rng(3), set()
    for trial in range(40):
        noise = Noise(trial).at(5)
        target = rng.standard_normal((4, 9)).astype(np.float32) * 2
        draft = target[:3] + rng.standard_normal((3, 9)).astype(np.float32)
        p, q = warp(target, sampling), warp(draft, sampling)
        ids = [acceptor.propose(q[i], noise, i) for i in range(3)]
        drafted = DraftRows(np.zeros((3, 9), np.float32), None)
        for row in draft:
            drafted.add(HostRows(row[None], sampling, IndexError))
        expected, verdict = (
            acceptor(ids, q, p, noise),
            acceptor(ids, drafted, HostRows(target, sampling, IndexError), noise),
        )
        assert verdict == expected
        assert (verdict.residual is None) == (expected.residual is None)
        if expected.residual is not None:
            np.testing.assert_array_equal(np.asarray(verdict.residual), expected.residual)
        kept.add(verdict.num_accepted)
    assert {0, 1, 3} <= kept
