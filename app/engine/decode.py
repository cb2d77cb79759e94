"""The round loop: draft, verify, accept. One loop for both arms; the target-only arm is k = 1.

Speculative sampling (Chen et al. 2023, Algorithm 2) over a window of k tokens: the last known one and k - 1 drafted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.engine import model
from app.engine.acceptance import Acceptor, Judgement, Verdict
from app.engine.drafting import Drafter, Proposal, not_finite
from app.engine.sampling import Noise, WarpedRows, alternatives, residual_alternatives, top_alternatives
from app.engine.windows import Fixed, Windows
from app.errors import ModelError
from app.record.trace import (
    Alternative,
    Arm,
    DraftedToken,
    FinalToken,
    FinishReason,
    Provenance,
    Round,
    Sampling,
    State,
)

NO_PROPOSAL = Proposal((), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), 0.0)
NUM_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """When an arm ends: at a stop token, after max_tokens, or where a context of n_positions is full."""

    max_tokens: int
    n_positions: int
    stop_ids: frozenset[int]


def decode(
    target: model.Sequence,
    drafter: Drafter | None,
    prompt: Ids[int],
    *,
    k: int | Windows,
    sampling: Sampling,
    acceptor: Acceptor,
    limits: Limits,
    target_name: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Round, None, None]:
    """Yield the rounds of one arm; round 0 is the prefill with its first token.

    prompt: token ids, 1 <= len <= n_positions - 1. drafter None: the target alone. k: one window for all rounds, or who
    chooses each. Every pass feeds what the cache
    lacks (`context[sequence.length:]`) and rolls back what was not kept, so a fully accepted window is no special
    case. An arm's time ends where its tokens are known: building the event is not counted. Raises ModelError for logits that are not finite, or an acceptor's fault.
    """
    assert 0 < len(prompt) < limits.n_positions, (len(prompt), limits.n_positions)
    arm: Arm = "target" if drafter is None else "speculative"
    windows = Fixed(k) if isinstance(k, int) else k
    noise, context, emitted, index = Noise(sampling.seed), list(prompt), 0, 0
    while True:
        begin = clock()
        position = len(context)
        round_noise = noise.at(position)
        room = min(limits.max_tokens - emitted, limits.n_positions - position)
        window = 1 if drafter is None or index == 0 else min(windows.next(), room)
        proposal, draft_seconds = NO_PROPOSAL, 0.0
        if drafter is not None and index == 0:
            draft_seconds = drafter.prefill(context)
        elif drafter is not None and window > 1:
            proposal = drafter.propose(context, window - 1, acceptor.propose, round_noise, windows.more)
            draft_seconds = proposal.seconds

        verify_begin = clock()
        logits = target.forward([*context[target.length :], *proposal.ids], len(proposal.ids) + 1)
        verify_seconds = clock() - verify_begin

        rows = WarpedRows(logits, sampling, partial(_unusable, target_name, position))
        verdict = acceptor(proposal.ids, proposal.probs, rows, round_noise)
        tokens = _emitted(proposal.ids, verdict, limits.stop_ids)
        context += tokens
        emitted += len(tokens)
        target.rollback(min(target.length, len(context) - 1))
        finish = _finish(tokens[-1], emitted, len(context), limits)
        kept = min(len(tokens), verdict.num_accepted)
        if drafter is not None and index:
            windows.judged(kept, refused=len(tokens) > kept and kept < len(proposal.ids))
        host_seconds = clock() - begin - draft_seconds - verify_seconds

        # The arm is done with its round. What follows looks inside it for the viewer, and is no arm's time.
        target_probs, judged = rows.all(), len(verdict.judgements)
        distance = acceptor.total_variation(proposal.ids[:judged], proposal.probs[:judged], target_probs[: judged + 1])
        drafted = _drafted(proposal, verdict, len(tokens), logits, target_probs)
        final = _final(verdict, len(drafted), logits, target_probs) if len(tokens) > verdict.num_accepted else None
        seconds = (draft_seconds, verify_seconds, host_seconds)
        yield Round(index, arm, drafted, final, *seconds, distance, finish, proposal.source, k=window)
        if finish is not None:
            return
        index += 1


def _unusable(name: str, position: int, row: int) -> ModelError:
    return not_finite(name, position + row)


def _finish(last: int, emitted: int, length: int, limits: Limits) -> FinishReason | None:
    if last in limits.stop_ids:
        return "stop"
    if emitted >= limits.max_tokens:
        return "length"
    return "context" if length >= limits.n_positions else None


def _emitted(draft_ids: Ids[int], verdict: Verdict, stop_ids: frozenset[int]) -> list[int]:
    """The accepted tokens and the final one; nothing follows an accepted stop token."""
    tokens = [*draft_ids[: verdict.num_accepted], verdict.final_id]
    end = next((place for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[: end + 1]


def _drafted(
    proposal: Proposal, verdict: Verdict, emitted: int, logits: NDArray[np.float32], target_probs: NDArray[np.float32]
) -> tuple[DraftedToken, ...]:
    """The drafted tokens with their verdicts; those behind an accepted stop token were never judged."""
    draft_alternatives = alternatives(proposal.logits, proposal.probs, NUM_ALTERNATIVES, proposal.kept_ids)
    target_alternatives = alternatives(logits[:-1], target_probs[:-1], NUM_ALTERNATIVES)
    stopped = emitted <= verdict.num_accepted
    accepted = min(emitted, verdict.num_accepted)
    drafted = []
    for i, token in enumerate(proposal.ids):
        state: State = "accepted" if i < accepted else "rejected" if i == accepted and not stopped else "discarded"
        judgement = Judgement()
        if i < len(verdict.judgements) and not (stopped and i >= accepted):
            judgement = verdict.judgements[i]
        q = float(proposal.probs[i, token])
        p = float(target_probs[i, token]) if token < target_probs.shape[1] else 0.0
        coin = (judgement.u, judgement.threshold)
        drafted.append(DraftedToken(token, state, q, p, *coin, draft_alternatives[i], target_alternatives[i]))
    return tuple(drafted)


def _final(
    verdict: Verdict, drafted: int, logits: NDArray[np.float32], target_probs: NDArray[np.float32]
) -> FinalToken:
    """The target's own token behind the accepted ones."""
    row, token = verdict.num_accepted, verdict.final_id
    provenance: Provenance = "target" if not drafted else "bonus" if row == drafted else "corrected"
    residual: tuple[Alternative, ...] = ()
    if provenance == "corrected" and verdict.residual is not None:
        residual = residual_alternatives(verdict.residual, target_probs[row], NUM_ALTERNATIVES)
    p = float(target_probs[row, token])
    return FinalToken(
        token, provenance, p, top_alternatives(logits[row], target_probs[row], NUM_ALTERNATIVES), residual
    )
