"""Drafters: what lookup finds, and when it is preferred to a draft model. Exactness is proven in test_exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from app.backends.toy import ToyModel, toy_pair
from app.engine.drafting import MAX_MATCH, MIN_MATCH, EitherDrafter, LookupDrafter, ModelDrafter, Proposal
from app.engine.noise import Noise, Purpose, RoundNoise, draw
from app.engine.sampling import Floats, confidence
from app.record.trace import Sampling

NOISE = Noise(0).at(0)


def pick(probs: Floats, noise: RoundNoise, offset: int) -> int:
    return draw(probs, noise.uniform(offset, Purpose.DRAFT))


def looked_up(context: list[int], count: int, stop_ids: frozenset[int] = frozenset()) -> tuple[int, ...]:
    return LookupDrafter(1000, stop_ids).look_up(context, count)[0]


def test_what_followed_before_is_proposed_again() -> None:
    assert looked_up([1, 2, 3, 4, 5, 6, 1, 2], 3) == (3, 4, 5)


def test_nothing_is_proposed_where_nothing_agrees() -> None:
    for context in ([], [7], [1, 2], [1, 2, 3, 2], list(range(50))):
        assert looked_up(context, 4) == ()
    assert MIN_MATCH == 2  # one token alone agrees too easily: [1, 2, 3, 2]


def test_the_longest_match_counts_and_of_equals_the_latest() -> None:
    assert looked_up([9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 1) == (3,)
    assert looked_up([1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 1) == (4,)
    drafter = LookupDrafter(1000, frozenset())
    assert drafter.look_up([9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 1) == ((3,), 3)


def test_a_text_that_repeats_itself_is_read_on_into_the_copy() -> None:
    assert looked_up([5, 1, 2, 1, 2], 7) == (1, 2, 1, 2, 1, 2, 1)
    assert looked_up([3] * 40, 4) == (3, 3, 3, 3)


def test_nothing_is_copied_beyond_a_stop_token() -> None:
    assert looked_up([1, 2, 3, 0, 5, 1, 2], 6, frozenset({0})) == (3, 0)


def test_a_match_is_measured_no_further_than_pays() -> None:
    text = list(range(60))
    assert LookupDrafter(1000, frozenset()).look_up([*text, 99, *text[:40]], 2) == ((40, 41), MAX_MATCH)


def test_the_index_grows_with_the_text() -> None:
    """One drafter over a growing text finds what a fresh one finds."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, 4, 200).tolist()
    growing = LookupDrafter(4, frozenset())
    growing.prefill(text[:5])
    for end in np.cumsum(rng.integers(1, 6, 50)):
        context = text[: 5 + int(end)]
        assert growing.look_up(context, 5) == LookupDrafter(4, frozenset()).look_up(context, 5)


def test_looked_up_tokens_are_certain_and_cost_no_pass() -> None:
    clock = iter([5.0, 5.25]).__next__
    proposal = LookupDrafter(10, frozenset(), clock).propose([1, 2, 3, 4, 1, 2], 2, pick, NOISE)
    assert (proposal.ids, proposal.source) == ((3, 4), "lookup")
    np.testing.assert_array_equal(proposal.probs, np.eye(10, dtype=np.float32)[[3, 4]])
    assert np.flatnonzero(np.isfinite(proposal.logits[0])).tolist() == [3]
    assert proposal.seconds == 0.25, "what looking up took"
    empty = LookupDrafter(10, frozenset()).propose([1, 2, 3], 2, pick, NOISE)
    assert (empty.ids, empty.probs.shape, empty.source) == ((), (0, 10), None)


def either(draft: ToyModel) -> EitherDrafter:
    sampling = Sampling()
    model = ModelDrafter(
        draft.new_sequence(), name="draft", vocab_size=draft.vocab_size, sampling=sampling, stop_ids=frozenset()
    )
    return EitherDrafter(model, LookupDrafter(draft.vocab_size, frozenset()))


def test_a_long_match_is_preferred_to_the_draft_and_a_short_one_that_failed_is_not() -> None:
    _, draft, _ = toy_pair()
    text = [1, 2, 3, 4, 5, 6, 7, 0, 2, 4, 6]
    assert either(draft).propose([*text, 7, 7, *text[:8]], 3, pick, NOISE).source == "lookup"
    drafter, context = either(draft), [1, 2]
    sources = []
    for n in range(12):  # whatever followed 1 2 is never said after them again
        proposal = drafter.propose(context, 3, pick, NOISE)
        sources.append(proposal.source)
        said = proposal.ids if proposal.source == "draft" else ()
        context = [*context, *said, 3 + n % 3, 7, 1, 2]
    assert sources[-1] == "draft"


def test_the_draft_is_left_when_the_text_is_seen_to_be_copied() -> None:
    """Lookup is judged in rounds it did not draft, too."""
    _, draft, _ = toy_pair(agreement="bad")
    drafter = either(draft)
    text = [1, 2, 3, 4, 5, 6, 7, 0, 1, 3, 5, 7, 2, 4, 6, 0]
    sources = [drafter.propose([*text, *text[:n]], 3, pick, NOISE).source for n in range(2, 16)]
    assert sources[-1] == "lookup"


def test_the_draft_catches_up_on_what_was_looked_up() -> None:
    _, draft, _ = toy_pair()
    drafter = either(draft)
    text = [1, 2, 3, 4, 5, 6, 7, 0, 2, 4, 6, 1]
    drafter.prefill(text)
    assert drafter.propose([*text, *text[:9]], 3, pick, NOISE).source == "lookup"
    context = [*text, *text[:9], 3, 3]
    proposal: Proposal = drafter.propose(context, 1, pick, NOISE)
    assert proposal.source == "draft"
    np.testing.assert_array_equal(proposal.logits[0], draft.logits(context))


def test_an_id_only_the_target_has_is_read_as_another() -> None:
    _, draft, _ = toy_pair()
    model = ModelDrafter(draft.new_sequence(), name="draft", vocab_size=8, sampling=Sampling(), stop_ids=frozenset())
    model.prefill([1, 12, 2])
    assert len(model.propose([1, 12, 2, 9, 3], 2, pick, NOISE).ids) == 2


def test_drafting_ends_where_no_more_is_wanted_and_every_draft_is_asked_about() -> None:
    _, draft, _ = toy_pair(trimmed=(0, 3))
    model = ModelDrafter(
        draft.new_sequence(),
        name="draft",
        vocab_size=draft.vocab_size,
        sampling=Sampling(),
        stop_ids=frozenset(),
        kept_ids=draft.kept_ids,
    )
    asked: list[float] = []

    def twice(sure: Callable[[], float]) -> bool:
        asked.append(sure())
        return len(asked) < 2

    model.prefill([1, 2])
    proposal = model.propose([1, 2], 5, pick, NOISE, twice)
    assert len(proposal.ids) == len(proposal.probs) == 2
    assert asked == [confidence(row) for row in proposal.logits]
    np.testing.assert_array_equal(proposal.logits[1], draft.logits([1, 2, proposal.ids[0]])[draft.kept_ids])
    assert not proposal.probs[:, [0, 3]].any()
    again = model.propose([1, 2], 1, pick, NOISE, lambda sure: False)
    assert again.ids == proposal.ids[:1], "no trace is left of the rows of the round before"


@pytest.mark.parametrize("length", [0, 1])
def test_a_prompt_too_short_to_hold_a_match(length: int) -> None:
    drafter = LookupDrafter(8, frozenset())
    drafter.prefill([1] * length)
    assert drafter.propose([1] * length, 3, pick, NOISE).ids == ()
