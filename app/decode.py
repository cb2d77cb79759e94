"""The round loop: draft, verify, accept. One loop for both arms; the target-only arm is k = 1.

Speculative sampling (Chen et al. 2023, Algorithm 2) over a window of k tokens: the last known one and k - 1 drafted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from collections.abc import Sequence as Ids
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app import model
from app.acceptance import Acceptor, Verdict
from app.drafting import NUM_ALTERNATIVES, Drafter, Proposal, not_finite
from app.sampling import Noise, NonFiniteLogits, residual_alternatives, top_alternatives, warp
from app.trace import Arm, DraftedToken, FinalToken, FinishReason, Provenance, Round, Sampling, State

NO_PROPOSAL = Proposal((), np.empty((0, 0), np.float32), (), 0.0)


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
    k: int,
    sampling: Sampling,
    acceptor: Acceptor,
    limits: Limits,
    target_name: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Round, None, None]:
    """Yield the rounds of one arm; round 0 is the prefill with its first token.

    prompt: token ids, 1 <= len <= n_positions - 1. drafter None: the target alone. Every pass feeds what the cache
    lacks (`context[sequence.length:]`) and rolls back what was not kept, so a fully accepted window is no special
    case. Raises ModelError for logits that are not finite, or an acceptor's fault.
    """
    assert 0 < len(prompt) < limits.n_positions, (len(prompt), limits.n_positions)
    arm: Arm = "target" if drafter is None else "speculative"
    noise, context, emitted, index = Noise(sampling.seed), list(prompt), 0, 0
    while True:
        begin = clock()
        position = len(context)
        round_noise = noise.at(position)
        room = min(limits.max_tokens - emitted, limits.n_positions - position)
        proposal, draft_seconds = NO_PROPOSAL, 0.0
        if drafter is not None and index == 0:
            draft_seconds = drafter.prefill(context)
        elif drafter is not None and min(k, room) > 1:
            proposal = drafter.propose(context, min(k, room) - 1, acceptor.propose, round_noise)
            draft_seconds = proposal.seconds

        verify_begin = clock()
        logits = target.forward([*context[target.length :], *proposal.ids], len(proposal.ids) + 1)
        verify_seconds = clock() - verify_begin

        try:
            target_probs = warp(logits, sampling)
        except NonFiniteLogits as error:
            raise not_finite(target_name, position + error.row) from None
        verdict = acceptor(proposal.ids, proposal.probs, target_probs, round_noise)
        judged = len(verdict.judgements)
        distance = acceptor.total_variation(proposal.ids[:judged], proposal.probs[:judged], target_probs[: judged + 1])
        drafted, final = _judged(proposal, verdict, logits, target_probs, limits.stop_ids)
        tokens = [token.id for token in drafted if token.state == "accepted"]
        tokens += [] if final is None else [final.id]
        context += tokens
        emitted += len(tokens)
        target.rollback(min(target.length, len(context) - 1))
        finish = _finish(tokens[-1], emitted, len(context), limits)
        host_seconds = clock() - begin - draft_seconds - verify_seconds
        yield Round(index, arm, drafted, final, draft_seconds, verify_seconds, host_seconds, distance, finish)
        if finish is not None:
            return
        index += 1


def _finish(last: int, emitted: int, length: int, limits: Limits) -> FinishReason | None:
    if last in limits.stop_ids:
        return "stop"
    if emitted >= limits.max_tokens:
        return "length"
    return "context" if length >= limits.n_positions else None


def _judged(
    proposal: Proposal,
    verdict: Verdict,
    logits: NDArray[np.float32],
    target_probs: NDArray[np.float32],
    stop_ids: frozenset[int],
) -> tuple[tuple[DraftedToken, ...], FinalToken | None]:
    """The round's tokens with their verdicts. What follows an accepted stop token is discarded, the final included."""
    count = len(proposal.ids)
    stop = next((i for i in range(verdict.num_accepted) if proposal.ids[i] in stop_ids), count)
    drafted = []
    for i, token in enumerate(proposal.ids):
        state: State = (
            "accepted" if i < verdict.num_accepted else "rejected" if i == verdict.num_accepted else "discarded"
        )
        judgement = verdict.judgements[i] if i < len(verdict.judgements) else None
        if i > stop:
            state, judgement = "discarded", None
        drafted.append(
            DraftedToken(
                token,
                state,
                float(proposal.probs[i, token]),
                float(target_probs[i, token]) if token < target_probs.shape[1] else 0.0,
                None if judgement is None else judgement.u,
                None if judgement is None else judgement.threshold,
                proposal.alternatives[i],
                top_alternatives(logits[i], target_probs[i], NUM_ALTERNATIVES),
            )
        )
    if stop < verdict.num_accepted:
        return tuple(drafted), None
    row = verdict.num_accepted
    provenance: Provenance = "target" if not count else "bonus" if row == count else "corrected"
    final = FinalToken(
        verdict.final_id,
        provenance,
        float(target_probs[row, verdict.final_id]),
        top_alternatives(logits[row], target_probs[row], NUM_ALTERNATIVES),
        ()
        if verdict.residual is None
        else residual_alternatives(verdict.residual, target_probs[row], NUM_ALTERNATIVES),
    )
    return tuple(drafted), final
