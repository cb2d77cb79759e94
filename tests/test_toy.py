"""The toys keep the contract of app.model, and catch whoever breaks it."""

from __future__ import annotations

import numpy as np
import pytest

from app.backends.toy import ASSISTANT, STOP, USER, ToyModel, ToyTokenizer, toy_pair
from app.engine.model import KVCache, Model, Tokenizer
from app.engine.sampling import warp
from app.record.trace import Sampling


def test_toys_are_what_the_protocols_ask() -> None:
    target, draft, tokenizer = toy_pair()
    models: list[Model] = [target, draft]
    texts: Tokenizer = tokenizer
    sequence: KVCache = models[0].new_sequence()
    assert sequence.length == 0
    assert texts.vocab_size == models[0].vocab_size == models[1].vocab_size == 8
    assert all(model.memory() > 0 and model.num_parameters > 0 and model.bit_identical for model in models)


def test_a_row_does_not_depend_on_its_window_or_on_what_was_rolled_back() -> None:
    target, _, _ = toy_pair()
    context = [3, 1, 4, 1, 5, 2, 6]
    sequence = target.new_sequence()
    together = sequence.forward(context, 5).copy()
    for row in range(5):
        upto = context[: row + 3]
        assert np.array_equal(together[row], target.logits(upto))
        fresh = target.new_sequence()
        fresh.forward([7, 7, 7, 7, 7, 7], 1)
        fresh.rollback(0)
        for token in upto:
            alone = fresh.forward([token], 1)
        assert np.array_equal(together[row], alone[0])
        fresh.close()
    assert np.array_equal(toy_pair()[0].logits(context), target.logits(context))
    assert not np.array_equal(toy_pair(seed=1)[0].logits(context), target.logits(context))


def test_one_stale_token_anywhere_in_the_cache_changes_what_follows() -> None:
    target, _, _ = toy_pair()
    context = [3, 1, 4, 1, 5, 2, 6]
    for place in range(len(context)):
        changed = [*context]
        changed[place] = (changed[place] + 1) % 8
        assert not np.array_equal(target.logits(changed), target.logits(context))
    assert not np.array_equal(target.logits(context[1:]), target.logits(context))


def test_an_array_is_the_callers_only_until_the_next_pass() -> None:
    sequence = toy_pair()[0].new_sequence()
    first = sequence.forward([1, 2], 2)
    kept = first.copy()
    assert np.isfinite(kept).all()
    sequence.forward([3], 1)
    assert np.isnan(first).all()


def test_rolling_back_keeps_the_beginning() -> None:
    target, _, _ = toy_pair()
    sequence = target.new_sequence()
    sequence.forward([1, 2, 3, 4], 1)
    sequence.rollback(2)
    assert (sequence.length, sequence.token_ids) == (2, (1, 2))
    assert np.array_equal(sequence.forward([5], 1)[0], target.logits([1, 2, 5]))


def test_breaking_the_contract_is_an_assertion() -> None:
    target, draft, _ = toy_pair(n_positions=6, windows=(2, 3), max_sequences=2)
    sequence, other = target.new_sequence(), target.new_sequence()
    with pytest.raises(AssertionError, match="too many sequences"):
        target.new_sequence()
    for ids, num_logits in [([], 1), ([1], 2), ([1], 0), ([8], 1), ([-1], 1), ([1] * 7, 1), ([1] * 4, 4)]:
        with pytest.raises(AssertionError):
            sequence.forward(ids, num_logits)
    sequence.forward([1] * 6, 3)
    with pytest.raises(AssertionError, match="longer than n_positions"):
        sequence.forward([1], 1)
    with pytest.raises(AssertionError):
        sequence.rollback(7)
    sequence.close()
    for broken in (sequence.close, lambda: sequence.rollback(0), lambda: sequence.forward([1], 1)):
        with pytest.raises(AssertionError, match="closed"):
            broken()
    assert target.open_sequences == 1
    other.close()
    target.new_sequence()
    assert draft.windows is None
    draft.new_sequence().forward([1] * 5, 5)


def test_agreement_says_how_near_the_draft_is() -> None:
    distances = {}
    for agreement in ("same", "good", "bad", "adversarial"):
        target, draft, _ = toy_pair(agreement=agreement)
        contexts = [[i, j] for i in range(8) for j in range(8)]
        p, q = (warp(np.stack([model.logits(c) for c in contexts]), Sampling(1.0)) for model in (target, draft))
        distances[agreement] = float(np.abs(p - q).sum(1).mean() / 2)
    assert distances["same"] == 0
    assert 0.1 < distances["good"] < 0.35 < distances["bad"] < distances["adversarial"]


def test_trimmed_and_padded_ids_have_no_probability() -> None:
    target, draft, tokenizer = toy_pair(padding=(2, 5), trimmed=(0, 3))
    assert (target.vocab_size, draft.vocab_size, tokenizer.vocab_size) == (10, 13, 8)
    assert np.flatnonzero(np.isneginf(target.logits([1]))).tolist() == [8, 9]
    assert np.flatnonzero(np.isneginf(draft.logits([1]))).tolist() == [0, 3, 8, 9, 10, 11, 12]


def test_broken_logits_window_noise_and_delay_are_there_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft, _ = toy_pair(broken_at=3, window_noise=1e-3, delay=0.02, draft_delay=0.0)
    assert np.isnan(target.logits([1, 2, 3])).all()
    assert np.isfinite(target.logits([1, 2])).all()
    assert np.isfinite(draft.logits([1, 2, 3])).all()
    assert not target.bit_identical
    one, two = target.new_sequence(), target.new_sequence()
    slept: list[float] = []
    monkeypatch.setattr("app.backends.toy.time.sleep", slept.append)
    alone, within = one.forward([1, 2], 1), two.forward([1, 2], 2)
    draft.new_sequence().forward([1, 2], 1)
    assert slept == [0.02, 0.02]
    assert not np.array_equal(alone[0], within[1])
    assert np.allclose(alone[0], within[1], atol=1e-2)
    assert (target.passes, draft.passes) == (2, 1)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "aab aab aac", "naïve 🙂"])
@pytest.mark.parametrize("prompt", ["", "<scr", "aab aab"])
def test_a_scripted_model_says_its_text_whatever_the_prompt(text: str, prompt: str) -> None:
    target, draft, tokenizer = toy_pair(script=text)
    context = tokenizer.encode_chat([{"role": "user", "content": prompt}])
    begun, sequence = len(context), target.new_sequence()
    agreed = 0
    while context[-1] not in tokenizer.stop_ids:
        agreed += int(draft.logits(context).argmax() == target.logits(context).argmax())
        context.append(int(sequence.forward(context[sequence.length :], 1)[0].argmax()))
    assert b"".join(tokenizer.piece(token) for token in context[begun:-1]).decode() == text
    assert 0.5 < agreed / (len(context) - begun) < 1


def test_the_byte_tokenizer_gives_back_what_it_reads() -> None:
    tokenizer = ToyTokenizer(stop_ids=[STOP])
    text = "a <b>é</b> 🙂 \ud8ff".encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.piece, ids)) == text.encode("utf-8", "surrogateescape")
    assert tokenizer.encode("x<stop>y") == [ord("x"), STOP, ord("y")]
    assert tokenizer.encode_chat([{"role": "user", "content": "a"}]) == [USER, ord("a"), ASSISTANT]
    assert [token for token in range(tokenizer.vocab_size) if tokenizer.is_special(token)] == [USER, ASSISTANT, STOP]


def test_the_letter_tokenizer() -> None:
    tokenizer = ToyTokenizer(5, [4])
    assert tokenizer.encode("abcz") == [0, 1, 2, 0]
    assert b"".join(map(tokenizer.piece, [0, 1, 2])) == b"abc"
    assert (tokenizer.has_chat_template, tokenizer.is_special(4), tokenizer.is_special(0)) == (False, True, False)


def test_a_script_needs_an_end() -> None:
    with pytest.raises(AssertionError, match="stop token"):
        ToyModel(script=[1, 2])
