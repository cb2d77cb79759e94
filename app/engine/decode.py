"""The round loop: draft, verify, accept. One loop for both arms; the target-only arm is a window of 1.

Speculative sampling (Chen et al. 2023, Algorithm 2) over a window of k tokens: the last known one and k - 1 drafted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from app.engine.acceptance import Acceptor, Verdict
from app.engine.drafting import NOTHING, Drafter, not_finite
from app.engine.model import KVCache, States, StatesCache
from app.engine.noise import Noise
from app.engine.round_record import Seconds, record
from app.engine.scored import score
from app.engine.windows import Windows
from app.errors import ModelError
from app.record.trace import FinishReason, Round, Sampling


@dataclass(frozen=True, slots=True)
class Limits:
    """When an arm ends: at a stop token, after max_tokens, or where a context of n_positions is full."""

    max_tokens: int
    n_positions: int
    stop_ids: frozenset[int]

    def reached(self, last: int, emitted: int, length: int) -> FinishReason | None:
        """Why the arm ends after the token `last`, `emitted` tokens and a context of `length`; None where it goes
        on."""
        if last in self.stop_ids:
            return "stop"
        if emitted >= self.max_tokens:
            return "length"
        return "context" if length >= self.n_positions else None


def decode(
    target: KVCache,
    drafter: Drafter | None,
    prompt: Sequence[int],
    *,
    windows: Windows,
    sampling: Sampling,
    acceptor: Acceptor,
    limits: Limits,
    target_name: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Round, None, None]:
    """Yield the rounds of one arm; round 0 is the prefill with its first token.

    prompt: token ids, 1 <= len <= n_positions - 1. drafter None: the target alone. Every pass feeds what the cache
    lacks (`context[cache.length:]`) and rolls back what was not kept, so a fully accepted window is no special case.
    An arm's time ends where its tokens are known: building the event is not counted. Raises ModelError for logits that
    are not finite, or an acceptor's fault.
    """
    assert 0 < len(prompt) < limits.n_positions, (len(prompt), limits.n_positions)
    noise, context, emitted, index = Noise(sampling.seed), list(prompt), 0, 0
    while True:
        begin = clock()
        position = len(context)
        round_noise = noise.at(position)
        room = min(limits.max_tokens - emitted, limits.n_positions - position)
        window = 1 if drafter is None or index == 0 else min(windows.next(), room)
        proposal, draft_seconds = NOTHING, 0.0
        if drafter is not None and window > 1:
            pick = None if acceptor.draws else acceptor.propose
            proposal = drafter.propose(context, window - 1, pick, round_noise, windows.draft_on)
            draft_seconds = proposal.seconds

        verify_begin, read = clock(), target.length
        feed, unusable = [*context[target.length :], *proposal.ids], partial(_unusable, target_name, position)
        rows = score(target, feed, len(proposal.ids) + 1, sampling, unusable)
        verify_seconds = clock() - verify_begin
        if drafter is not None and index == 0:
            draft_seconds = drafter.prefill(context, _states(target) if drafter.sees_target else None)

        verdict = acceptor(proposal.ids, proposal.rows, rows, round_noise)
        tokens = _emitted(proposal.ids, verdict, limits.stop_ids)
        context += tokens
        emitted += len(tokens)
        target.rollback(min(target.length, len(context) - 1))
        if drafter is not None and drafter.sees_target and index:
            drafter.follow(_states(target)[: target.length - read])
        finish = limits.reached(tokens[-1], emitted, len(context))
        kept = min(len(tokens), verdict.num_accepted)
        if drafter is not None and index:
            windows.judged(kept, refused=len(tokens) > kept and kept < len(proposal.ids))
        host_seconds = clock() - begin - draft_seconds - verify_seconds

        # The arm is done with its round. What follows looks inside it for the viewer, and is no arm's time.
        yield record(
            index=index,
            arm="target" if drafter is None else "speculative",
            window=window,
            proposal=proposal,
            verdict=verdict,
            emitted=len(tokens),
            rows=rows,
            acceptor=acceptor,
            noise=round_noise,
            seconds=Seconds(draft_seconds, verify_seconds, host_seconds),
            finish=finish,
        )
        if finish is not None:
            return
        index += 1


def _states(target: KVCache) -> States:
    return cast(StatesCache, target).states


def _unusable(name: str, position: int, row: int) -> ModelError:
    return not_finite(name, position + row)


def _emitted(draft_ids: Sequence[int], verdict: Verdict, stop_ids: frozenset[int]) -> list[int]:
    """The accepted tokens and the final one; nothing follows an accepted stop token."""
    tokens = [*draft_ids[: verdict.num_accepted], verdict.final_id]
    end = next((place for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[: end + 1]
