"""Upstream's loop as the reference arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.backends.neuron.loading import load_pair  # noqa: E402
from app.backends.neuron.upstream import run_upstream  # noqa: E402
from app.errors import ModelError, RequestError  # noqa: E402
from app.record.trace import dumps, loads  # noqa: E402
from tests.support import neuron_device, neuron_fake  # noqa: E402
from tests.support.neuron_device import Runtime  # noqa: E402
from tests.support.neuron_pairs import (  # noqa: E402
    AGREEING,
    NO_ZERO,
    ON_TRANSFORMERS_NEURONX,
    PROMPT,
    Load,
    V,
    greedy_text,
    text,
)

pytestmark = ON_TRANSFORMERS_NEURONX


def test_upstream_emits_what_its_rounds_say(pair: Load) -> None:
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)
    recorded: list[list[int]] = []

    class Spy(neuron_fake.DefaultTokenAcceptor):
        def __call__(self, *args: Any) -> Any:
            row = super().__call__(*args)
            recorded.append(row[0].tolist())
            return row

    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=14, k=5, stop_ids=frozenset(), seed=5, acceptor=Spy()))
    assert [r.index for r in rounds] == list(range(len(rounds)))
    assert rounds[0].drafted == ()
    assert len(text(rounds)) == 14
    assert rounds[-1].finish_reason == "length"
    for round_, row in zip(rounds[1:-1], recorded, strict=False):
        assert list(round_.token_ids) == row[: len(round_.token_ids)]
        assert row[len(round_.token_ids) :] == [0] * (5 - len(round_.token_ids))
    states = [token.state for r in rounds for token in r.drafted]
    assert {"accepted", "rejected"} <= set(states)
    for round_ in rounds:
        assert loads(dumps(round_)) == round_
        assert min(round_.draft_seconds, round_.verify_seconds, round_.host_seconds) >= 0


def test_upstream_probabilities_are_those_of_the_scores(pair: Load) -> None:
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)
    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=10, k=3, stop_ids=frozenset(), seed=2))
    context = [*PROMPT, *rounds[0].token_ids]
    for round_ in rounds[1:]:
        for i, token in enumerate(round_.drafted):
            before = [*context, *(t.id for t in round_.drafted[:i])]
            for model, value in ((target, token.p), (draft, token.q)):
                row = neuron_device.expected_logits(model.module.fake, V, before).astype(np.float64)
                assert value == pytest.approx(float(np.exp(row[token.id]) / np.exp(row).sum()), rel=1e-5)
        context += round_.token_ids


def test_upstream_is_seeded_and_leaves_the_global_generator_alone(pair: Load) -> None:
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()

    def run(seed: int) -> list[int]:
        return text(list(run_upstream(target, draft, PROMPT, max_tokens=20, k=3, stop_ids=frozenset(), seed=seed)))

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(4)}) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("max_tokens", range(1, 8))
def test_upstream_ends_at_max_tokens(pair: Load, max_tokens: int) -> None:
    target, draft = pair(NO_ZERO, NO_ZERO)
    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=max_tokens, k=5, stop_ids=frozenset()))
    assert len(text(rounds)) == max_tokens
    assert rounds[-1].finish_reason == "length"
    assert all(r.finish_reason is None for r in rounds[:-1])


def test_upstream_takes_an_acceptor_that_does_not_pad(pair: Load) -> None:
    """A deterministic answer; its short rows would end the stock loop with a raw error."""
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)

    class Greedy(neuron_fake.TokenAcceptor):
        def __call__(self, draft_ids: Any, draft_scores: Any, target_scores: Any) -> Any:
            best = target_scores[0].argmax(-1)
            agreed = int((draft_ids[0] == best[:-1]).int().cumprod(0).sum())
            return best[: agreed + 1]

    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=20, k=5, stop_ids=frozenset(), acceptor=Greedy()))
    assert text(rounds) == greedy_text(target, PROMPT, 20)


@pytest.mark.parametrize("padded", [True, False])
def test_upstream_takes_an_acceptor_that_ends_on_a_draft(pair: Load, padded: bool) -> None:
    """Never a token of the target's: what it accepted is emitted, and the next round begins with the last of it."""
    target, draft = pair(NO_ZERO, NO_ZERO)  # the draft is the target: the first two are always right

    def two(draft_ids: Any, *_: Any) -> Any:
        return torch.nn.functional.pad(draft_ids[:, :2], (0, 3 if padded else 0))

    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=21, k=5, stop_ids=frozenset(), acceptor=two))
    assert text(rounds) == greedy_text(target, PROMPT, 21)
    assert [(len(r.accepted), r.final) for r in rounds[1:]] == [(2, None)] * 10
    assert {token.state for token in rounds[1].drafted[2:]} == {"discarded"}
    for round_ in rounds:
        assert loads(dumps(round_)) == round_


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([1, 2, 3, 4], "4 tokens for a window of 3"),
        ([], "no token"),
        ([9, 8, 7], r"\[9, 8, 7\], which goes on after replacing the draft"),
        ([1.0, 2.0], "which are no ids"),
    ],
)
def test_rows_that_upstreams_loop_would_take_for_something_else(pair: Load, row: list[Any], said: str) -> None:
    target, draft = pair(draft={"table": [0.0] * V})

    def acceptor(draft_ids: Any, *_: Any) -> Any:
        draft_ids[0, :] = torch.tensor([1, 2])  # as if these had been drafted
        return torch.tensor([row])

    with pytest.raises(ModelError, match=said):
        list(run_upstream(target, draft, PROMPT, max_tokens=9, k=3, stop_ids=frozenset(), acceptor=acceptor))


def test_upstreams_own_errors_become_sentences(pair: Load) -> None:
    target, draft = pair()

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("in my acceptor")

    rounds = run_upstream(target, draft, PROMPT, max_tokens=20, k=5, stop_ids=frozenset(), acceptor=broken)
    assert len(next(rounds).token_ids) == 1
    with pytest.raises(ModelError, match="ZeroDivisionError: in my acceptor"):
        next(rounds)


def test_upstream_refuses_two_vocabularies(runtime: Runtime, tmp_path: Path) -> None:
    target_dir = neuron_device.write_checkpoint(tmp_path / "Big", vocab_size=24)
    draft_dir = neuron_device.write_checkpoint(tmp_path / "Small", vocab_size=32)
    target, draft = load_pair(target_dir, draft_dir, tp_degree=1, n_positions=32, num_cores=2)
    with pytest.raises(RequestError, match="equal vocabularies"):
        next(run_upstream(target, draft, PROMPT, max_tokens=9, k=2, stop_ids=frozenset()))
