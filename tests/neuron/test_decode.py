"""The engine's loop on a Neuron pair."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from tests.support.neuron_pairs import (  # noqa: E402
    PROMPT,
    WARM,
    WINDOWS,
    Load,
    V,
    arm,
    both,
    greedy_text,
    text,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("k", WINDOWS)
def test_both_arms_print_the_targets_greedy_text(pair: Load, k: int) -> None:
    target, draft = pair()
    alone, speculative = both(target, draft, k=k)
    assert text(alone) == text(speculative) == greedy_text(target, PROMPT, 24)
    verdicts = {token.state for round_ in speculative for token in round_.drafted}
    assert {"accepted", "rejected"} <= verdicts  # the test saw both


def test_a_draft_that_always_agrees(pair: Load) -> None:
    """Every round is fully accepted: the catch-up of two tokens, every time."""
    target, draft = pair(draft={})
    alone, speculative = both(target, draft, k=5, max_tokens=26)
    assert text(alone) == text(speculative)
    assert all(len(r.accepted) == len(r.drafted) for r in speculative)
    assert len(speculative) == 1 + 5


def test_a_draft_that_never_agrees(pair: Load) -> None:
    target, draft = pair(target={"table": [0.0] * (V - 1) + [9.0]}, draft={"table": [9.0] + [0.0] * (V - 1)})
    alone, speculative = both(target, draft)
    assert text(alone) == text(speculative) == [V - 1] * 24
    assert sum(len(r.accepted) for r in speculative) == 0


def test_the_coupled_acceptor_prints_one_text_at_any_temperature(pair: Load) -> None:
    target, draft = pair()
    alone, speculative = both(target, draft, sampling=WARM, acceptor="coupled")
    assert text(alone) == text(speculative)
    assert text(alone) != greedy_text(target, PROMPT, 24)


@pytest.mark.parametrize("prompt", [[1], [0], PROMPT, [0] * 9, list(range(V)) * 2])
def test_prompts_follow_one_another(pair: Load, prompt: list[int]) -> None:
    target, draft = pair(n_positions=96)
    for each in (PROMPT, prompt, PROMPT):
        alone, speculative = both(target, draft, each)
        assert text(alone) == text(speculative) == greedy_text(target, each, 24)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_the_context_is_filled_to_its_last_position(pair: Load, k: int) -> None:
    target, draft = pair(n_positions=20, windows=(2, 3, 5, 8))
    for length in range(8, 20):
        prompt = [(5 * i) % V for i in range(length)]
        alone, speculative = both(target, draft, prompt, k=k, max_tokens=99)
        assert text(alone) == text(speculative) == greedy_text(target, prompt, 20 - length)
        assert alone[-1].finish_reason == speculative[-1].finish_reason == "context"


def test_several_stop_ids(pair: Load) -> None:
    target, draft = pair()
    greedy = greedy_text(target, PROMPT, 24)
    stop_ids = (greedy[9], greedy[13])
    end = next(i for i, token in enumerate(greedy) if token in stop_ids)
    alone, speculative = both(target, draft, stop_ids=stop_ids)
    assert text(alone) == text(speculative) == greedy[: end + 1]
    assert alone[-1].finish_reason == speculative[-1].finish_reason == "stop"


@pytest.mark.parametrize("position", range(1, 8))
def test_a_stop_id_anywhere_in_a_window(pair: Load, position: int) -> None:
    target, draft = pair(draft={})  # all accepted: the stop token falls on every place of a window of five
    greedy = greedy_text(target, PROMPT, 24)
    _, speculative = both(target, draft, stop_ids=(greedy[position],))
    assert text(speculative) == greedy[: greedy.index(greedy[position]) + 1]


def test_a_cancelled_run_leaves_nothing_behind(pair: Load) -> None:
    target, draft = pair()
    running = arm(target, draft, PROMPT)
    next(running), next(running)
    running.close()
    alone, speculative = both(target, draft)
    assert text(alone) == text(speculative) == greedy_text(target, PROMPT, 24)
