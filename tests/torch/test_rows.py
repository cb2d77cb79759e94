"""The warp and the draw where the logits are, against NumPy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.noise import draw
from app.engine.pair import Pair
from app.engine.sampling import confidence
from app.engine.sampling import warp as sampling_of_numpy
from app.engine.scored import HostRows
from app.engine.session import Session
from app.record.trace import Request, Round, Sampling

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
from app.backends.torch import model, warp  # noqa: E402
from tests.support.torch_models import IDS, model_of  # noqa: E402

pytestmark = pytest.mark.slow

SAMPLINGS = [
    Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    for temperature in (0.0, 0.3, 1.0, 2.0)
    for top_p in (1.0, 0.95, 0.6, 0.01)
    for top_k in (0, 1, 40)
]


@pytest.mark.parametrize("size", [5, 128, 49152])
def test_the_warp_and_the_draw_are_numpys(size: int) -> None:
    rng = np.random.default_rng(size)
    different, judged = 0, 0
    for sampling in SAMPLINGS:
        logits = (rng.standard_normal((2, size)) * rng.choice([1, 4])).astype(np.float32)
        logits[:, 1], logits[:, 3] = logits[:, 2], -np.inf  # equals, and an id that is never said
        values = torch.tensor(warp.scalars(sampling), dtype=torch.float64)
        kind = warp.Kind.of(sampling)
        expected = sampling_of_numpy(logits, sampling)
        np.testing.assert_allclose(warp.warp(torch.from_numpy(logits), kind, values), expected, atol=1e-6)
        for coin in (0.0, *rng.random(3), 1 - 2.0**-53):
            values[2] = coin
            probs, few = warp.step(torch.from_numpy(logits[0]), kind, values)
            token = int(few[warp.TOKEN])
            assert probs is None or probs[token] > 0
            assert (probs is None) == kind.greedy
            assert float(few[warp.CHANCE]) == pytest.approx(expected[0, token], abs=1e-6)
            assert float(few[warp.CONFIDENCE]) == pytest.approx(confidence(logits[0]), abs=1e-5)
            assert few[warp.FINITE] == 1
            different += token != draw(expected[0], coin)
            judged += 1
    assert different <= judged // 100  # ties at rounding


@pytest.mark.parametrize("places", [False, True])
def test_what_is_drawn_beyond_a_refused_draft_is_numpys(places: bool) -> None:
    rng = np.random.default_rng(4)
    for size, number in ((128, 40), (128, 128), (100, 128)):
        kept = np.sort(rng.choice(size, min(number, size), replace=False)) if places else np.arange(min(number, size))
        p, q = (rng.dirichlet(np.full(n, 0.2)).astype(np.float32) for n in (size, len(kept) if places else number))
        whole = np.zeros(size, np.float32)
        whole[kept] = q[: len(kept)]
        for target in (p, whole):  # nothing is left of the second: it is drawn from the row itself
            rest = np.maximum(target - whole, 0)
            expected = rest if rest.any() else target
            for coin in (0.0, *rng.random(8)):
                token, held = warp.draw_rest(
                    torch.from_numpy(target),
                    torch.from_numpy(q),
                    torch.from_numpy(kept) if places else None,
                    torch.tensor([coin], dtype=torch.float64),
                )
                np.testing.assert_array_equal(held, expected)
                assert int(token) == draw(expected, coin)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.8, top_p=0.9)])
def test_rows_on_a_device_answer_as_numpys_do(tiny: Path, sampling: Sampling) -> None:
    made = model_of(tiny)
    made.rows_stay = True
    here, there = made.new_sequence(), made.new_sequence()
    here.forward(IDS[:20], 1)
    there.forward(IDS[:20], 1)
    rows = there.score(IDS[20:24], 4, sampling, IndexError)
    expected = HostRows(here.forward(IDS[20:24], 4), sampling, IndexError)
    assert (rows.shape, rows.ndim, len(rows)) == (expected.shape, 2, 4)
    np.testing.assert_allclose(rows.all(), expected.all(), atol=1e-6)
    np.testing.assert_allclose(rows.logits, expected.logits, atol=1e-5)
    for row in range(4):
        for token in (IDS[21 + min(row, 2)], 5, 127, 500):
            assert rows.chance(row, token) == pytest.approx(expected.chance(row, token), abs=1e-6)
        for coin in (0.1, 0.5, 0.9):
            assert rows.draw(row, coin) == expected.draw(row, coin)
        assert rows.confidence(row) == pytest.approx(expected.confidence(row), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("coin", [None, 0.5])
@pytest.mark.parametrize("stay", [True, False])
def test_rows_that_are_not_finite_are_the_callers_fault(
    tiny: Path, temperature: float, coin: float | None, stay: bool
) -> None:
    made = model_of(tiny)
    made.rows_stay = stay
    head: Any = made.network.stages[-1].head
    head[7] = float("nan")
    sequence = made.new_sequence()
    rows = sequence.score([1, 2], 1, Sampling(temperature=temperature), KeyError, coin)
    for look in (lambda: rows[0], lambda: rows.draw(0, 0.5), lambda: rows.chance(0, 3)):
        with pytest.raises(KeyError):
            look()


@pytest.mark.parametrize("acceptor", ["rejection", "exact", "block", "coupled", "typical"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_run_is_the_same_whether_rows_stay_on_the_device_or_not(
    trimmed: Pair, acceptor: str, temperature: float
) -> None:
    """The draft scores 40 ids of 128, so places and ids differ; it reads the target's states, or tokens alone."""
    sampling = Sampling(temperature=temperature, top_p=0.95, seed=3)
    request = Request(prompt="HELLO", chat_template=False, max_tokens=40, k=4, acceptor=acceptor, sampling=sampling)

    def rounds() -> list[Round]:
        said = [each for each in Session(trimmed).run(request) if isinstance(each, Round)]
        return sorted(said, key=lambda each: (each.arm, each.index))  # whichever arm was behind goes on

    models = [each for each in (trimmed.target, trimmed.draft) if isinstance(each, model.TorchModel)]
    assert [each.rows_stay for each in models] == [False, False]  # they are in main memory here
    here = rounds()
    for each in models:
        each.rows_stay = True
    there = rounds()
    assert len(there) == len(here) > 10
    for one, other in zip(there, here, strict=True):
        assert [each.id for each in one.drafted] == [each.id for each in other.drafted]
        assert [each.state for each in one.drafted] == [each.state for each in other.drafted]
        assert [each.q for each in one.drafted] == pytest.approx([each.q for each in other.drafted], abs=1e-6)
        assert [each.p for each in one.drafted] == pytest.approx([each.p for each in other.drafted], abs=1e-6)
        assert (one.final is None) == (other.final is None)
        assert one.final is None or other.final is None or one.final.id == other.final.id
        if one.final is not None and other.final is not None:
            rests = [{each.id: each.warped_prob for each in final.residual} for final in (one.final, other.final)]
            assert rests[0] == pytest.approx(rests[1], abs=1e-5)
