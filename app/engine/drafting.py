"""Drafters: who proposes the tokens the target then judges: a draft model, the text so far, or either by turns.

A drafter may learn from the rounds before and choose by them: whatever distribution a round's tokens were drawn from,
a lossless acceptor divides by that one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from app.engine.model import KVCache, States, StatesCache
from app.engine.noise import Purpose, RoundNoise
from app.engine.sampling import Probs
from app.engine.scored import DraftProbs, DraftRows, forward, score
from app.engine.sight import Sight
from app.errors import ModelError
from app.record.theory import expected_kept
from app.record.trace import DraftSource, Sampling

Propose = Callable[[NDArray[np.float32], RoundNoise, int], int]
DraftOn = Callable[[Callable[[], float]], bool]
"""Whether to draft another token after one, given how sure the draft was of it; worked out only where it is asked
for."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafted tokens [g]; the warped distributions they were picked from, [g, V]; the seconds of the drafter's own
    passes, and what made them (None: there are none). All are the caller's until the drafter's next proposal.

    rows: an array, or rows that answer when indexed. kept_ids [n]: the ids that the logits are of (None: all).
    known_logits: float32 [g, n], where the rows have none.
    """

    ids: tuple[int, ...]
    rows: DraftProbs
    seconds: float
    source: DraftSource | None = None
    kept_ids: NDArray[np.int64] | None = None
    known_logits: NDArray[np.float32] | None = None

    @property
    def probs(self) -> Probs:
        """float32 [g, V], in main memory."""
        return np.asarray(self.rows)

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 [g, n], in main memory."""
        if self.known_logits is not None:
            return self.known_logits
        assert isinstance(self.rows, DraftRows)
        return self.rows.logits


NOTHING = Proposal((), np.empty((0, 0), np.float32), 0.0, known_logits=np.empty((0, 0), np.float32))
"""What the target alone is given to judge."""


def always(sure: Callable[[], float]) -> bool:
    """Draft as many as were asked for."""
    return True


class Drafter(Protocol):
    """Proposes tokens that may follow a context."""

    @property
    def sees_target(self) -> bool:
        """Whether it is to be given the target's states."""
        ...

    def prefill(self, context: Sequence[int], states: States | None = None) -> float:
        """Read the prompt; returns the seconds it took. states: the target's, where the drafter sees it."""
        ...

    def follow(self, states: States) -> None:
        """The target's states of the positions whose tokens are known since it was last told; where it sees the
        target."""
        ...

    def propose(
        self, context: Sequence[int], count: int, pick: Propose | None, noise: RoundNoise, draft_on: DraftOn = always
    ) -> Proposal:
        """At most `count` tokens to follow `context`, each picked by `pick(probs, noise, offset)`; None: drawn by the
        round's DRAFT coin.

        Fewer where going on is pointless: after a stop token nothing follows, and a model is not run again where
        `draft_on`, asked after each of its tokens, says no. That answer may depend on the token, so a token once
        drafted is judged.
        """
        ...

    def close(self) -> None: ...


class ModelDrafter:
    """A draft model: one pass a token, each token picked from the warped q that the acceptor divides by."""

    def __init__(
        self,
        sequence: KVCache,
        *,
        name: str,
        vocab_size: int,
        sampling: Sampling,
        stop_ids: frozenset[int],
        kept_ids: NDArray[np.int64] | None = None,
        sight: Sight | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """kept_ids: the only ids the model scores (None: all). sight: for a model that reads its target's states."""
        self._sequence, self._name, self._vocab_size, self._kept_ids = sequence, name, vocab_size, kept_ids
        # handed out anew in each round: outside kept_ids the rows stay 0, which new memory would have to be made
        self._probs = np.zeros((0, vocab_size), np.float32)
        self._sampling, self._stop_ids, self._clock = sampling, stop_ids, clock
        self._sight, self._read = sight, 0

    @property
    def sees_target(self) -> bool:
        return self._sight is not None

    def prefill(self, context: Sequence[int], states: States | None = None) -> float:
        begin = self._clock()
        if states is not None:
            self.follow(states)
        forward(self._sequence, self._readable(context), 1, self._before(len(context)))
        self._read = len(context)
        return self._clock() - begin

    def follow(self, states: States) -> None:
        assert self._sight is not None, "this draft reads tokens alone"
        self._sight.follow(states)

    def _before(self, count: int) -> States | None:
        return None if self._sight is None else self._sight.theirs(count)

    def propose(
        self, context: Sequence[int], count: int, pick: Propose | None, noise: RoundNoise, draft_on: DraftOn = always
    ) -> Proposal:
        sequence, clock = self._sequence, self._clock
        # what was drafted without the target's states is read again with them
        kept_length = len(context) - 1 if self._sight is None else self._read
        sequence.rollback(min(sequence.length, kept_length))
        feed = self._readable(context[sequence.length :])
        before = self._before(len(feed))
        self._read = len(context)
        ids: list[int] = []
        if len(self._probs) < count:
            self._probs = np.zeros((count, self._vocab_size), np.float32)
        drafted = DraftRows(self._probs, self._kept_ids)
        seconds = 0.0
        for offset in range(count):
            coin = noise.uniform(offset, Purpose.DRAFT)
            unusable = partial(_unusable, self._name, len(context) + offset)
            begin = clock()
            rows = score(sequence, feed, 1, self._sampling, unusable, coin if pick is None else None, before)
            seconds += clock() - begin
            drafted.add(rows)
            token = drafted.draw(offset, coin) if pick is None else pick(drafted[offset], noise, offset)
            ids.append(token)
            if not draft_on(partial(rows.confidence, 0)) or token in self._stop_ids:
                break
            feed = [token]
            before = None if self._sight is None else self._sight.own(cast(StatesCache, sequence).states)
        return Proposal(tuple(ids), drafted, seconds, "draft", self._kept_ids)

    def _readable(self, token_ids: Sequence[int]) -> list[int]:
        """Ids the target alone has, its padding, are read as 0: any q is exact, and they are next to never said."""
        return [token if token < self._vocab_size else 0 for token in token_ids]

    def close(self) -> None:
        self._sequence.close()


MIN_MATCH, MAX_MATCH = 2, 16  # tokens that must, and at most need, agree for what follows them to be copied


class LookupDrafter:
    """Prompt lookup (Saxena 2023): what followed the last tokens where they stood before, in the prompt or the answer.

    No model: q is one-hot, so `rejection` keeps a token with the target's own p for it. Of all places the last tokens
    stood at, the one where most of them agree counts, and the latest of equals.
    """

    def __init__(
        self, vocab_size: int, stop_ids: frozenset[int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._vocab_size, self._stop_ids, self._clock = vocab_size, stop_ids, clock
        self._places: dict[tuple[int, ...], list[int]] = {}  # MIN_MATCH tokens -> where the token after them stands
        self._indexed = MIN_MATCH

    sees_target = False

    def follow(self, states: States) -> None:
        """Nothing is read from states."""

    def prefill(self, context: Sequence[int], states: States | None = None) -> float:
        begin = self._clock()
        self._index(context)
        return self._clock() - begin

    def propose(
        self, context: Sequence[int], count: int, pick: Propose | None, noise: RoundNoise, draft_on: DraftOn = always
    ) -> Proposal:
        begin = self._clock()
        ids, _ = self.look_up(context, count)
        return self.proposal(ids, self._clock() - begin)

    def look_up(self, context: Sequence[int], count: int) -> tuple[tuple[int, ...], int]:
        """At most `count` tokens to follow `context`, and how many of the last ones agreed (0: nothing was found)."""
        self._index(context)
        place, agreed = 0, 0
        for candidate in reversed(self._places.get(tuple(context[-MIN_MATCH:]), [])):
            length = _common_ending(context, candidate)
            if length > agreed:
                place, agreed = candidate, length
            if agreed == MAX_MATCH:
                break
        ids: list[int] = []
        while agreed and len(ids) < count and not (ids and ids[-1] in self._stop_ids):
            beyond = place - len(context)  # a text that repeats itself is read on into what was just copied
            ids.append(context[place] if beyond < 0 else ids[beyond])
            place += 1
        return tuple(ids), agreed

    def proposal(self, ids: tuple[int, ...], seconds: float) -> Proposal:
        """These tokens, each certain."""
        probs = np.zeros((len(ids), self._vocab_size), np.float32)
        logits = np.full_like(probs, -np.inf)
        rows = np.arange(len(ids))
        probs[rows, ids], logits[rows, ids] = 1, 0
        return Proposal(ids, probs, seconds, "lookup" if ids else None, known_logits=logits)

    def _index(self, context: Sequence[int]) -> None:
        for end in range(self._indexed, len(context)):
            self._places.setdefault(tuple(context[end - MIN_MATCH : end]), []).append(end)
        self._indexed = max(self._indexed, len(context))

    def close(self) -> None:
        pass


class EitherDrafter:
    """A draft model and lookup, in each round whichever is expected to have more of its tokens kept.

    The expectation is counted from this run's own text, so a seed gives the same rounds again on any machine. Lookup
    is judged in every round, used or not: its guess is there for nothing, and the text shows whether it was right.
    """

    def __init__(self, draft: ModelDrafter, lookup: LookupDrafter) -> None:
        self._draft, self._lookup = draft, lookup
        self._drafts = _Record(0.7)
        # the longer the match, the surer the guess
        self._lookups = [_Record(length / (length + 1)) for length in range(MAX_MATCH + 1)]
        self._pending: list[tuple[int, tuple[int, ...], _Record]] = []  # guesses, and where each begins

    @property
    def sees_target(self) -> bool:
        return self._draft.sees_target

    def prefill(self, context: Sequence[int], states: States | None = None) -> float:
        return self._draft.prefill(context, states) + self._lookup.prefill(context)

    def follow(self, states: States) -> None:
        self._draft.follow(states)

    def propose(
        self, context: Sequence[int], count: int, pick: Propose | None, noise: RoundNoise, draft_on: DraftOn = always
    ) -> Proposal:
        for place, guess, record in self._pending:
            record.add(guess, context[place:])
        guess, agreed = self._lookup.look_up(context, count)
        looked_up = self._lookups[agreed]
        self._pending = [(len(context), guess, looked_up)]
        if looked_up.expected(len(guess)) >= self._drafts.expected(count):
            return self._lookup.proposal(guess, 0.0)
        proposal = self._draft.propose(context, count, pick, noise, draft_on)
        self._pending.append((len(context), proposal.ids, self._drafts))
        return proposal

    def close(self) -> None:
        self._draft.close()


class _Record:
    """How often a source's tokens were right, counted from a prior that weighs as much as four of them."""

    def __init__(self, prior: float) -> None:
        self._right, self._judged = 4 * prior, 4.0

    def add(self, guess: Sequence[int], said: Sequence[int]) -> None:
        """`said` is what stands in the text from where `guess` began."""
        right = next((i for i, (one, other) in enumerate(zip(guess, said, strict=False)) if one != other), None)
        self._right += min(len(guess), len(said)) if right is None else right
        self._judged += min(len(guess), len(said)) if right is None else right + 1

    def expected(self, count: int) -> float:
        """Tokens kept of `count`."""
        return expected_kept([self._right / self._judged] * count)


def _common_ending(context: Sequence[int], end: int) -> int:
    """How many tokens before `end` are the last ones of `context`, counted up to MAX_MATCH."""
    most = min(end, MAX_MATCH)
    return next((n for n in range(most) if context[end - 1 - n] != context[-1 - n]), most)


def _unusable(name: str, position: int, row: int) -> ModelError:
    return not_finite(name, position + row)


def not_finite(name: str, position: int) -> ModelError:
    """The error for logits that are NaN, infinite, or all -inf."""
    return ModelError(
        f"{name} gave logits that are not finite at position {position}; "
        "its weights are damaged or its precision is too low, so load it again with --dtype f32."
    )
