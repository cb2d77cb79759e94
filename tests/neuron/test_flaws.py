"""A test for each of upstream's flaws: the fake has them, our loop has not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.backends.neuron.upstream import run_upstream  # noqa: E402
from app.errors import ModelError, RequestError  # noqa: E402
from app.record.trace import Round, Sampling  # noqa: E402
from tests.support import neuron_fake  # noqa: E402
from tests.support.neuron_pairs import (  # noqa: E402
    GREEDY,
    ON_TRANSFORMERS_NEURONX,
    PROMPT,
    WARM,
    Load,
    V,
    arm,
    both,
    greedy_text,
    text,
)

pytestmark = [ON_TRANSFORMERS_NEURONX, pytest.mark.slow]


def total_variation(samples: Sequence[tuple[int, ...]], probs: dict[tuple[int, ...], float]) -> float:
    counts = {key: sum(sample == key for sample in samples) for key in probs}
    return sum(abs(counts[key] / len(samples) - p) for key, p in probs.items()) / 2


@pytest.mark.slow
def test_flaw_argmax_drafts_against_a_softmax(pair: Load) -> None:
    """p = q = [.6, .4]: upstream's drafts are never 1, and always accepted."""
    logits = [math.log(0.6), math.log(0.4)]
    target, draft = pair({"table": logits}, {"table": logits}, vocab_size=2, n_positions=8, windows=(3,))
    probs: dict[tuple[int, ...], float] = {(a, b): (0.6, 0.4)[a] * (0.6, 0.4)[b] for a in (0, 1) for b in (0, 1)}
    ours = [
        tuple(text(list(arm(target, draft, [1, 1], k=3, max_tokens=3, sampling=Sampling(1.0, seed=seed))))[1:3])
        for seed in range(600)
    ]
    assert total_variation(ours, probs) < 0.08  # noise; always 0, 0 would be 0.64

    library = neuron_fake.SpeculativeGenerator(draft.module, target.module, 3)
    torch.manual_seed(0)
    rows = []

    def note(*args: Any) -> Any:
        rows.append(neuron_fake.DefaultTokenAcceptor()(*args))
        return rows[-1]

    library.acceptor = note
    for _ in range(100):
        library.sample(torch.tensor([[1, 1]]), 6)
    assert len(rows) >= 100
    drafted = {tuple(row[0, :2].tolist()) for row in rows}
    assert drafted == {(0, 0)}


def test_flaw_the_first_token_is_greedy(pair: Load) -> None:
    target, draft = pair({"table": [0.0] * V}, {"table": [0.0] * V})
    first = {text(list(arm(target, draft, PROMPT, max_tokens=1, sampling=Sampling(1.0, seed=s))))[0] for s in range(60)}
    assert len(first) > 12
    upstream = {
        next(run_upstream(target, draft, PROMPT, max_tokens=1, k=3, stop_ids=frozenset(), seed=s)).token_ids
        for s in range(5)
    }
    assert upstream == {(0,)}


def test_flaw_the_knobs_are_unused(pair: Load) -> None:
    """Temperature, top_k and top_p change our text; upstream has no place for them."""
    target, draft = pair()
    texts = {
        tuple(text(list(arm(target, draft, PROMPT, sampling=sampling))))
        for sampling in (
            GREEDY,
            WARM,
            Sampling(5.0, seed=7),
            Sampling(5.0, top_k=2, seed=7),
            Sampling(5.0, 0.3, seed=7),
        )
    }
    assert len(texts) == 5


def test_flaw_token_0_is_padding(pair: Load) -> None:
    """A target that says 0 every third time."""
    favourite = {"table": [5.0] + [4.8] + [0.0] * (V - 2)}
    target, draft = pair(favourite, favourite)
    alone, speculative = both(target, draft, sampling=Sampling(1.0, seed=3), acceptor="coupled", max_tokens=40)
    assert text(alone) == text(speculative)
    assert {0, 1} <= set(text(speculative))
    rounds = run_upstream(target, draft, PROMPT, max_tokens=40, k=3, stop_ids=frozenset())
    assert next(rounds).token_ids == (0,)
    with pytest.raises(ModelError, match="emitted token 0"):
        list(rounds)


@pytest.mark.parametrize("row", [[5, 0, 7], [0, 6, 7], [0, 0, 0], [0, 7, 0], [5, 0], [0]])
def test_a_token_0_anywhere_in_upstreams_window_is_noticed(pair: Load, row: list[int]) -> None:
    target, draft = pair(draft={"table": [0.0] * V})
    drafted: list[list[int]] = []

    def acceptor(draft_ids: Any, *_: Any) -> Any:
        drafted.append(draft_ids[0].tolist())
        draft_ids[0, : len(row)] = torch.tensor(row[:2])  # as if these had been drafted
        return torch.tensor([row])

    rounds = list[Round]()
    with pytest.raises(ModelError, match="emitted token 0"):
        rounds.extend(run_upstream(target, draft, PROMPT, max_tokens=9, k=3, stop_ids=frozenset(), acceptor=acceptor))
    assert len(drafted) == 1


def test_flaw_an_all_zero_window_loops_for_ever(pair: Load) -> None:
    zeros = {"table": [50.0] + [0.0] * (V - 1)}
    target, draft = pair(zeros, zeros)
    alone, speculative = both(target, draft)
    assert text(alone) == text(speculative) == [0] * 24
    with pytest.raises(ModelError, match="emitted token 0"):
        list(run_upstream(target, draft, PROMPT, max_tokens=20, k=3, stop_ids=frozenset()))


def test_flaw_the_end_of_the_context(pair: Load) -> None:
    target, draft = pair(draft={}, n_positions=16, windows=(5,))
    library = neuron_fake.SpeculativeGenerator(draft.module, target.module, 5)
    library.acceptor = lambda drafts, *_: torch.nn.functional.pad(drafts, (0, 1), value=1).clamp(min=1)
    with pytest.raises(StopIteration):
        library.sample(torch.tensor([PROMPT]), 16)
    alone, speculative = both(target, draft, max_tokens=99)
    assert text(alone) == text(speculative) == greedy_text(target, PROMPT, 11)
    guarded = list(run_upstream(target, draft, [1] * 11, max_tokens=99, k=5, stop_ids=frozenset()))
    assert guarded[-1].finish_reason == "context"
    assert len(text(guarded)) == 1  # 16 - 5 + 1 positions are all it may use


def test_flaw_a_list_of_stop_ids(pair: Load) -> None:
    target, draft = pair()
    library = neuron_fake.SpeculativeGenerator(draft.module, target.module, 3)
    with pytest.raises(RuntimeError):
        library.sample(torch.tensor([PROMPT]), 30, eos_token_id=[3, 4])
    greedy = greedy_text(target, PROMPT, 24)
    alone, speculative = both(target, draft, stop_ids=(greedy[4], greedy[6]))
    assert text(alone) == text(speculative)
    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=20, k=3, stop_ids=frozenset(range(1, V))))
    assert rounds[-1].finish_reason == "stop"


def test_flaw_k_of_one(pair: Load) -> None:
    target, draft = pair()
    with pytest.raises((RuntimeError, ValueError), match="non-empty"):
        neuron_fake.SpeculativeGenerator(draft.module, target.module, 1).sample(torch.tensor([PROMPT]), 30)
    assert text(list(arm(target, None, PROMPT, k=1))) == greedy_text(target, PROMPT, 24)
    with pytest.raises(RequestError, match="k = 1 was not compiled; choose one of 2, 3, 5, 8"):
        next(run_upstream(target, draft, PROMPT, max_tokens=9, k=1, stop_ids=frozenset()))


def test_flaw_a_long_prompt(pair: Load) -> None:
    target, draft = pair()
    with pytest.raises(RuntimeError):
        neuron_fake.SpeculativeGenerator(draft.module, target.module, 3).sample(torch.tensor([PROMPT * 4]), 10)
    with pytest.raises(RequestError, match="62 tokens long and upstream's loop takes 61"):
        next(run_upstream(target, draft, [1] * 62, max_tokens=9, k=3, stop_ids=frozenset()))
    prompt = [1] * 62
    alone, speculative = both(target, draft, prompt, k=3)
    assert text(alone) == text(speculative) == greedy_text(target, prompt, 2)


def test_flaw_a_baseline_with_another_warp(pair: Load) -> None:
    """The sample notebook compares with top_k = 50 sampling; here one request rules both arms."""
    target, draft = pair()
    for sampling in (Sampling(1.5, 0.7, 5, 11), Sampling(0.5, 1.0, 3, 11)):
        alone, speculative = both(target, draft, sampling=sampling, acceptor="coupled")
        assert text(alone) == text(speculative)
        finals = [r.final for r in (*alone, *speculative) if r.final is not None]
        assert all(sum(a.warped_prob > 0 for a in final.alternatives) <= sampling.top_k for final in finals)
