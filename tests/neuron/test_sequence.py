"""The Neuron sequence: whatever passes and rollbacks led to it, a row is what a clean context would give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.errors import ModelError  # noqa: E402
from tests.support.examples import examples  # noqa: E402
from tests.support.neuron_device import Runtime  # noqa: E402
from tests.support.neuron_pairs import (  # noqa: E402
    ON_NXD_INFERENCE,
    ON_TRANSFORMERS_NEURONX,
    PROMPT,
    WINDOWS,
    Load,
    V,
    calls,
    expected,
)


def test_prefill_steps_and_windows_reach_the_right_program(pair: Load, library: str) -> None:
    target, _ = pair()
    sequence = target.new_sequence()
    np.testing.assert_array_equal(sequence.forward(PROMPT, 1), expected(target, PROMPT, 1))
    assert calls(target) == [("prefill", 0, 5)]
    np.testing.assert_array_equal(sequence.forward([9], 1), expected(target, [*PROMPT, 9], 1))
    assert calls(target) == [("step", 5, 1)]
    window = [2, 6, 5, 3]
    rows = sequence.forward(window, 4)
    np.testing.assert_array_equal(rows, expected(target, [*PROMPT, 9, *window], 4))
    size = 5 if library == "transformers-neuronx" else 8  # the smallest that holds four; the only one
    assert calls(target) == [("window", 6, size)]
    assert rows.dtype == np.float32
    assert (rows.shape, sequence.length) == ((4, V), 10)


@ON_TRANSFORMERS_NEURONX
@pytest.mark.parametrize(("tokens", "window"), [(2, 2), (3, 3), (4, 5), (5, 5), (6, 8), (8, 8)])
def test_the_smallest_window_that_holds_the_tokens_is_run(pair: Load, tokens: int, window: int) -> None:
    target, _ = pair()
    sequence = target.new_sequence()
    sequence.forward(PROMPT, 1)
    calls(target)
    sequence.forward([1] * tokens, tokens)
    assert calls(target) == [("window", 5, window)]


@ON_NXD_INFERENCE
@pytest.mark.parametrize("tokens", range(2, 9))
def test_one_program_serves_every_window(pair: Load, tokens: int) -> None:
    target, _ = pair()
    sequence = target.new_sequence()
    sequence.forward(PROMPT, 1)
    calls(target)
    drafted = list(range(tokens))
    np.testing.assert_array_equal(sequence.forward(drafted, tokens), expected(target, [*PROMPT, *drafted], tokens))
    assert calls(target) == [("window", 5, 8)]


@ON_NXD_INFERENCE
@pytest.mark.parametrize("pad_token_id", [None, -1, 10**6, 5])
def test_a_padding_id_that_is_no_token_of_the_model_is_not_used(pair: Load, pad_token_id: int | None) -> None:
    target, _ = pair(config={"pad_token_id": pad_token_id})
    sequence = target.new_sequence()
    np.testing.assert_array_equal(sequence.forward(PROMPT, 1), expected(target, PROMPT, 1))
    np.testing.assert_array_equal(sequence.forward([9], 1), expected(target, [*PROMPT, 9], 1))


@pytest.mark.parametrize("rows", range(1, 6))
def test_rows_asked_of_an_empty_cache(pair: Load, rows: int) -> None:
    """A prefill answers for its last token alone, and no window of NxD Inference begins at position 0."""
    target, draft = pair()
    for model in (target, draft):
        sequence = model.new_sequence()
        np.testing.assert_array_equal(sequence.forward(PROMPT, rows), expected(model, PROMPT, rows))
        np.testing.assert_array_equal(sequence.forward([9], 1), expected(model, [*PROMPT, 9], 1))


def test_a_padded_window_leaves_no_trace(pair: Load) -> None:
    target, _ = pair(windows=(8,))
    sequence = target.new_sequence()
    sequence.forward(PROMPT, 1)
    sequence.forward([7, 8], 2)  # six dummy slots behind it
    context = [*PROMPT, 7, 8]
    for token in (1, 2, 3):
        context.append(token)
        np.testing.assert_array_equal(sequence.forward([token], 1), expected(target, context, 1))


def test_the_draft_catches_up_by_single_steps(pair: Load) -> None:
    """After a fully accepted round it lacks two tokens, and it has no program for a window."""
    _, draft = pair()
    assert draft.windows == ()
    sequence = draft.new_sequence()
    sequence.forward(PROMPT, 1)
    calls(draft)
    np.testing.assert_array_equal(sequence.forward([7, 8], 1), expected(draft, [*PROMPT, 7, 8], 1))
    assert calls(draft) == [("step", 5, 1), ("step", 6, 1)]


def test_a_window_that_does_not_fit_becomes_plain_steps(pair: Load) -> None:
    target, _ = pair(n_positions=16, windows=(5,))
    sequence = target.new_sequence()
    context = list(range(1, 13))
    sequence.forward(context, 1)
    calls(target)
    np.testing.assert_array_equal(sequence.forward([4, 5, 6, 7], 4), expected(target, [*context, 4, 5, 6, 7], 4))
    assert calls(target) == [("step", 12, 1), ("step", 13, 1), ("step", 14, 1), ("step", 15, 1)]
    assert sequence.length == target.n_positions


def test_a_window_at_the_very_end_is_still_one_pass(pair: Load) -> None:
    target, _ = pair(n_positions=16, windows=(4,))
    sequence = target.new_sequence()
    sequence.forward(list(range(1, 13)), 1)
    calls(target)
    sequence.forward([4, 5, 6, 7], 4)
    assert calls(target) == [("window", 12, 4)]


def test_more_tokens_than_the_largest_window_go_in_parts(pair: Load) -> None:
    target, _ = pair(windows=(3,))
    sequence = target.new_sequence()
    sequence.forward(PROMPT, 1)
    calls(target)
    more = [7, 8, 9, 10, 11, 12, 13]
    np.testing.assert_array_equal(sequence.forward(more, 7), expected(target, [*PROMPT, *more], 7))
    assert calls(target) == [("window", 5, 3), ("window", 8, 3), ("step", 11, 1)]


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63])
def test_prompts_below_at_and_beyond_the_prefill_bucket(pair: Load, length: int) -> None:
    target, _ = pair(n_positions=64, context_length_estimate=32)
    prompt = [(7 * i) % V for i in range(length)]
    sequence = target.new_sequence()
    np.testing.assert_array_equal(sequence.forward(prompt, 1), expected(target, prompt, 1))
    np.testing.assert_array_equal(sequence.forward([1], 1), expected(target, [*prompt, 1], 1))


@examples(30, suppress=(HealthCheck.function_scoped_fixture,))
@given(st.data())
def test_any_order_of_passes_and_rollbacks(pair: Load, runtime: Runtime, data: st.DataObject) -> None:
    """Whatever was cached and forgotten before, a row is that of a clean context."""
    model = pair(n_positions=32, windows=(2, 4))[data.draw(st.integers(0, 1))]
    sequence, context = model.new_sequence(), list[int]()
    for _ in range(data.draw(st.integers(1, 8))):
        room = model.n_positions - len(context)
        if room == 0 or (context and data.draw(st.booleans())):
            del context[data.draw(st.integers(0, len(context) - 1)) :]
            sequence.rollback(len(context))
            continue
        tokens = data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=min(room, 7)))
        rows = data.draw(st.integers(1, len(tokens)))
        context += tokens
        np.testing.assert_array_equal(sequence.forward(tokens, rows), expected(model, context, rows))
    assert sequence.length == len(context)


def test_a_new_prompt_needs_no_reset(pair: Load) -> None:
    target, _ = pair()
    for prompt in ([5, 6, 7, 8, 9, 10, 11], [1, 2], [20, 21, 22, 23]):
        sequence = target.new_sequence()
        np.testing.assert_array_equal(sequence.forward(prompt, 1), expected(target, prompt, 1))
        np.testing.assert_array_equal(sequence.forward([0, 1, 2], 3), expected(target, [*prompt, 0, 1, 2], 3))
        sequence.close()


def test_rows_are_copies(pair: Load) -> None:
    """The library may use its output buffers again; the fake does."""
    target, draft = pair()
    for model in (target, draft):
        sequence = model.new_sequence()
        rows = sequence.forward(PROMPT, 1)
        before = rows.copy()
        sequence.forward([1], 1)
        np.testing.assert_array_equal(rows, before)
        assert rows.flags.c_contiguous


def test_one_sequence_at_a_time(pair: Load) -> None:
    target, _ = pair()
    assert target.max_sequences == 1
    sequence = target.new_sequence()
    with pytest.raises(AssertionError, match="one sequence"):
        target.new_sequence()
    sequence.close()
    with pytest.raises(AssertionError, match="closed"):
        sequence.forward([1], 1)
    target.new_sequence().close()


def test_the_model_says_what_it_is(pair: Load) -> None:
    target, draft = pair(dtype="bf16")
    assert (target.name, target.vocab_size, target.n_positions, target.dtype) == ("Big", V, 64, "bf16")
    assert target.windows == WINDOWS
    assert not target.bit_identical
    assert "2 cores" in target.device
    assert target.memory() >= 2 * target.num_parameters > 2 * draft.num_parameters


@pytest.mark.parametrize(
    "error",
    [
        StopIteration(),
        AssertionError("1th input shape mismatch"),
        KeyError((5, 1)),
        ValueError("context_length (3)"),
        TypeError("bad operand"),
        RuntimeError("NRT_EXEC_HW_ERR"),
    ],
)
@pytest.mark.parametrize("tokens", [PROMPT, [1], [1, 2, 3]])
def test_no_exception_of_the_library_reaches_a_person(
    pair: Load, monkeypatch: pytest.MonkeyPatch, error: Exception, tokens: list[int]
) -> None:
    target, _ = pair()
    sequence = target.new_sequence()
    if tokens is not PROMPT:
        sequence.forward(PROMPT, 1)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(target.module, "forward", fail)
    monkeypatch.setattr(target.module, "speculative_forward", fail, raising=False)
    length = sequence.length
    with pytest.raises(ModelError, match=f"Big failed on the Neuron device.*{type(error).__name__}"):
        sequence.forward(tokens, len(tokens) if tokens is not PROMPT else 1)
    assert sequence.length == length


def test_token_ids_instead_of_logits_are_noticed(pair: Load, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """What `on_device_generation` would give."""
    target, _ = pair()
    ids = torch.zeros(1, 1, dtype=torch.int64)
    answer = ids if library == "transformers-neuronx" else SimpleNamespace(logits=ids)
    monkeypatch.setattr(target.module, "forward", lambda *args, **kwargs: answer)
    with pytest.raises(ModelError, match=r"answered with shape \(1, 1\)"):
        target.new_sequence().forward([1], 1)
