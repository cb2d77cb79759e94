"""The warp against a plain float64 one, and the draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.noise import draw
from app.engine.requests import validate_sampling
from app.engine.round_record import alternatives, residual_alternatives, top_alternatives
from app.engine.sampling import NonFiniteLogits, top_ids, warp
from app.errors import RequestError
from app.record.trace import Sampling
from tests.support.examples import examples

Row = NDArray[np.float32]
ROOT = Path(__file__).parents[1]


def one(logits: list[float] | Row, sampling: Sampling) -> Row:
    row: Row = warp(np.asarray(logits, np.float32)[None], sampling)[0]
    return row


def plainly(logits: Row, sampling: Sampling) -> NDArray[np.float64]:
    """The warp as it is defined: sort everything, in float64."""
    scores = logits.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    count = scores.size
    if sampling.temperature == 0:
        weights, count = np.ones(scores.size), 1
    else:
        weights = np.exp((scores - scores.max()) / sampling.temperature)
        if sampling.top_k:
            count = min(count, sampling.top_k)
        if sampling.top_p < 1:
            reached = np.cumsum(weights[order[:count]])
            count = min(count, int(np.searchsorted(reached, sampling.top_p * reached[-1])) + 1)
    probs = np.zeros(scores.size)
    probs[order[:count]] = weights[order[:count]]
    probs /= probs.sum()
    return probs


# --- the warp ---


def test_warp_on_four_tokens() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3])).tolist()
    assert one(logits, Sampling(0.0)).tolist() == [0, 1, 0, 0]
    assert one(logits, Sampling(1.0)) == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=1e-6)
    assert one(logits, Sampling(0.5)) == pytest.approx(np.array([1, 16, 4, 9]) / 30, abs=1e-6)
    assert one(logits, Sampling(1.0, top_k=2)) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-6)
    assert one(logits, Sampling(1.0, top_p=0.65)) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-6)
    assert one(logits, Sampling(1.0, top_p=0.75)) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9], abs=1e-6)
    # top_p is a share of what top_k left: 4/7 alone reach 0.5, as 0.4 of 1 would not
    assert one(logits, Sampling(1.0, top_k=2, top_p=0.5)).tolist() == [0, 1, 0, 0]


@examples(150)
@given(
    st.data(),
    st.sampled_from([0.0, 1e-3, 0.3, 1.0, 5.0]),
    st.sampled_from([1e-6, 0.3, 0.95, 1.0]),
    st.sampled_from([0, 1, 3, 50]),
)
def test_warp_is_the_plain_one(data: st.DataObject, temperature: float, top_p: float, top_k: int) -> None:
    size = data.draw(st.sampled_from([1, 2, 7, 300, 3000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = (rng.standard_normal(size) * data.draw(st.sampled_from([0.1, 1, 10]))).astype(np.float32)
    if data.draw(st.booleans()):
        logits = np.round(logits)  # equals
    logits[rng.random(size) < data.draw(st.sampled_from([0, 0.5]))] = -np.inf
    logits[rng.integers(size)] = 1
    sampling = Sampling(temperature, top_p, top_k)
    got, expected = one(logits, sampling), plainly(logits, sampling)
    # where the nucleus is cut a rounding may let in one token more or less
    assert np.abs(got - expected).sum() / 2 < 1e-5 + (expected[expected > 0].min() if top_p < 1 else 0)
    assert np.count_nonzero((got > 0) != (expected > 0)) <= (1 if top_p < 1 else np.count_nonzero(expected < 1e-30))
    assert got.dtype == np.float32
    assert got.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [49152, 49153, 128256])
@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("sampling", [Sampling(1.0, 0.95), Sampling(1.0, 0.3), Sampling(0.7, 0.9, 50), Sampling(1.0)])
def test_warp_of_a_whole_vocabulary(sampling: Sampling, scale: float, size: int) -> None:
    """Small nuclei take the short way, large ones the sort; both are the plain warp."""
    logits = (np.random.default_rng(1).standard_normal(size) * scale).astype(np.float32)
    logits[: size // 3] = np.float32(0.25)  # many equals
    got, expected = one(logits, sampling), plainly(logits, sampling)
    assert np.abs(got - expected).sum() / 2 < 2e-5
    assert abs(np.count_nonzero(got) - np.count_nonzero(expected)) <= 0.001 * size


def test_warp_of_a_row_does_not_depend_on_the_others() -> None:
    logits = np.random.default_rng(2).standard_normal((9, 5003)).astype(np.float32) * 3
    for sampling in (Sampling(0.0), Sampling(0.7), Sampling(1.0, 0.9), Sampling(1.0, 0.9, 40)):
        together = warp(logits, sampling)
        for row in range(9):
            assert np.array_equal(warp(logits[row : row + 1], sampling)[0], together[row])


def test_warp_keeps_equals_lowest_id_first() -> None:
    level = [1.0] * 6
    assert one(level, Sampling(0.0)).tolist() == [1, 0, 0, 0, 0, 0]
    assert one(level, Sampling(1.0, top_k=2)).tolist() == [0.5, 0.5, 0, 0, 0, 0]
    assert one(level, Sampling(1.0, top_p=0.5)) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0, 0])
    for top in (Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-9), Sampling(5.0, top_k=1, top_p=0.5)):
        assert one(level, top).tolist() == one(level, Sampling(0.0)).tolist()


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5.0])
def test_warp_never_overflows(temperature: float) -> None:
    probs = one([3e38, -3e38, 3e38, -np.inf], Sampling(temperature))
    assert probs.tolist() == [0.5, 0, 0.5, 0]


@pytest.mark.parametrize("bad", [[0, np.nan], [0, np.inf], [-np.inf, -np.inf], [np.nan, np.inf]])
@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(1.0, 0.5), Sampling(1.0, 0.5, 1)])
def test_warp_names_the_row_it_cannot_use(sampling: Sampling, bad: list[float]) -> None:
    with pytest.raises(NonFiniteLogits) as caught:
        warp(np.array([[1, 2], [-np.inf, 2], bad], np.float32), sampling)
    assert caught.value.row == 2


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        (Sampling(-0.1), "temperature is -0.1"),
        (Sampling(float("nan")), "temperature is nan"),
        (Sampling(11.0), "temperature is 11"),
        (Sampling(1.0, 0.0), "top_p is 0"),
        (Sampling(1.0, 1.01), "top_p is 1.01"),
        (Sampling(1.0, float("nan")), "top_p is nan"),
        (Sampling(1.0, 1.0, -1), "top_k is -1"),
        (Sampling(1.0, 1.0, 0, -1), "seed is -1"),
        (Sampling(1.0, 1.0, 0, 2**63), f"seed is {2**63}"),
    ],
)
def test_validate_names_the_value_it_refuses(sampling: Sampling, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        validate_sampling(sampling)


def test_validate_takes_the_ends_of_every_range() -> None:
    validate_sampling(Sampling(0.0, 1e-9, 0, 0))
    validate_sampling(Sampling(10.0, 1.0, 10**6, 2**63 - 1))


# --- the largest of a row ---


@examples(150)
@given(st.integers(1, 3000), st.integers(1, 40), st.integers(1, 200), st.integers(0, 2**32))
def test_top_ids_are_those_of_a_stable_sort(size: int, n: int, levels: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, size).astype(np.float32)
    values[values == 1] = -np.inf
    assert top_ids(values, n).tolist() == np.argsort(-values, kind="stable")[:n].tolist()


def test_alternatives_are_the_plain_softmax_and_the_warp() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    probs = one(logits, Sampling(0.0))
    found = top_alternatives(logits, probs, 3)
    assert [each.id for each in found] == [1, 3, 2]
    assert [each.model_prob for each in found] == pytest.approx([0.4, 0.3, 0.2], abs=1e-6)
    assert [each.warped_prob for each in found] == [1, 0, 0]
    assert alternatives(logits[None], probs[None], 3) == (found,)


def test_alternatives_leave_out_what_cannot_be_said() -> None:
    logits = np.array([-np.inf, 5, -np.inf], np.float32)
    assert [each.id for each in top_alternatives(logits, one(logits, Sampling(1.0)), 5)] == [1]
    residual, p = np.array([0, 0.25, 0.75], np.float32), np.array([0.5, 0.2, 0.3], np.float32)
    assert [(each.id, each.warped_prob) for each in residual_alternatives(residual, p, 5)] == [(2, 0.75), (1, 0.25)]


# --- draws ---


def test_draw_is_the_inverse_of_the_cumulative_sum() -> None:
    weights = np.array([0, 1, 0, 2, 1, 0], np.float32) / 4
    assert [draw(weights, u) for u in (0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53)] == [1, 1, 3, 3, 4, 4]


@examples(200)
@given(st.data(), st.floats(0, 1, exclude_max=True, allow_subnormal=False))
def test_draw_never_takes_a_weight_of_zero(data: st.DataObject, u: float) -> None:
    size = data.draw(st.sampled_from([1, 3, 255, 256, 257, 1000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    weights = rng.random(size).astype(np.float32) ** 8
    weights[weights < np.finfo(np.float32).tiny] = 0  # an engine in this process may have made denormals zero
    weights[rng.random(size) < data.draw(st.sampled_from([0, 0.5, 0.99]))] = 0
    weights[rng.integers(size)] = np.float32(1e-20)
    token = draw(weights, u)
    assert weights[token] > 0
    assert draw(np.concatenate([weights, np.zeros(400, np.float32)]), u) == token
    before, upto = weights[:token].sum(dtype=np.float64), weights[: token + 1].sum(dtype=np.float64)
    total = weights.sum(dtype=np.float64)
    rounding = 2.0**-22 * total  # the weights are float32, and so are the sums of blocks
    assert before - rounding <= u * total <= upto + rounding


def test_draw_refuses_nothing_to_draw_from() -> None:
    with pytest.raises(AssertionError, match="nothing to draw from"):
        draw(np.zeros(5, np.float32), 0.5)
