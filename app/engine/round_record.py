"""The record of a round: what the loop decided, as the event that the viewer reads. No arm's time is spent here.

The alternatives, the residual and the distance to the target are for whoever looks; the loop needs none of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.engine.acceptance import Acceptor, Judgement, Verdict
from app.engine.drafting import Proposal
from app.engine.noise import RoundNoise
from app.engine.plain_softmax import PlainSoftmax
from app.engine.rows import overlap
from app.engine.sampling import Floats, Ids, Probs, top_ids
from app.engine.scored import Rows
from app.record.trace import (
    Alternative,
    Arm,
    DraftedToken,
    FinalToken,
    FinishReason,
    Grounds,
    Provenance,
    Round,
    State,
)

NUM_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class Seconds:
    """Compute time of a round: draft passes, the target's pass, and all else the loop did."""

    draft: float
    verify: float
    host: float


def record(
    *,
    index: int,
    arm: Arm,
    window: int,
    proposal: Proposal,
    verdict: Verdict,
    emitted: int,
    rows: Rows,
    acceptor: Acceptor,
    noise: RoundNoise,
    seconds: Seconds,
    finish: FinishReason | None,
) -> Round:
    """The event of a round that emitted so many tokens. rows: the target's, [g + 1, V]; noise: what the acceptor was
    given."""
    logits, target_probs, draft_probs = rows.logits, rows.all(), proposal.probs
    judged = len(verdict.judgements)
    grounds = acceptor.grounds(proposal.ids[:judged], draft_probs[:judged], target_probs[: judged + 1], noise)
    drafted = _drafted(proposal, verdict, emitted, logits, target_probs, grounds)
    return Round(
        index=index,
        arm=arm,
        drafted=drafted,
        final=_final(verdict, len(drafted), logits, target_probs) if emitted > verdict.num_accepted else None,
        draft_seconds=seconds.draft,
        verify_seconds=seconds.verify,
        host_seconds=seconds.host,
        total_variation=acceptor.total_variation(
            proposal.ids[:judged], draft_probs[:judged], target_probs[: judged + 1]
        ),
        finish_reason=finish,
        source=proposal.source,
        k=window,
    )


def _drafted(
    proposal: Proposal,
    verdict: Verdict,
    emitted: int,
    logits: NDArray[np.float32],
    target_probs: Probs,
    grounds: tuple[Grounds, ...],
) -> tuple[DraftedToken, ...]:
    """The drafted tokens with their verdicts; those behind an accepted stop token were never judged."""
    draft_logits, draft_probs = proposal.logits, proposal.probs
    draft_alternatives = alternatives(draft_logits, draft_probs, NUM_ALTERNATIVES, proposal.kept_ids)
    target_alternatives = alternatives(logits[:-1], target_probs[:-1], NUM_ALTERNATIVES)
    stopped = emitted <= verdict.num_accepted
    accepted = min(emitted, verdict.num_accepted)
    drafted = []
    for i, token in enumerate(proposal.ids):
        state: State = "accepted" if i < accepted else "rejected" if i == accepted and not stopped else "discarded"
        was_judged = i < len(verdict.judgements) and not (stopped and i >= accepted)
        judgement = verdict.judgements[i] if was_judged else Judgement()
        draft, target = PlainSoftmax(draft_logits[i], proposal.kept_ids), PlainSoftmax(logits[i])
        drafted.append(
            DraftedToken(
                id=token,
                state=state,
                q=float(draft_probs[i, token]),
                p=float(target_probs[i, token]) if token < target_probs.shape[1] else 0.0,
                u=judgement.u,
                threshold=judgement.threshold,
                draft_alternatives=draft_alternatives[i],
                target_alternatives=target_alternatives[i],
                draft_model_prob=draft.prob(token),
                target_model_prob=target.prob(token),
                target_entropy=target.entropy,
                divergence=draft.divergence(target) if proposal.source == "draft" else None,
                overlap=overlap(target_probs[i], draft_probs[i]),
                grounds=grounds[i] if was_judged and i < len(grounds) else None,
            )
        )
    return tuple(drafted)


def _final(verdict: Verdict, drafted: int, logits: NDArray[np.float32], target_probs: Probs) -> FinalToken:
    """The target's own token behind the accepted ones."""
    row, token = verdict.num_accepted, verdict.final_id
    provenance: Provenance = "target" if not drafted else "bonus" if row == drafted else "corrected"
    residual: tuple[Alternative, ...] = ()
    if provenance == "corrected" and verdict.residual is not None:
        residual = residual_alternatives(np.asarray(verdict.residual), target_probs[row], NUM_ALTERNATIVES)
    plain = PlainSoftmax(logits[row])
    return FinalToken(
        id=token,
        provenance=provenance,
        p=float(target_probs[row, token]),
        alternatives=top_alternatives(logits[row], target_probs[row], NUM_ALTERNATIVES),
        residual=residual,
        target_model_prob=plain.prob(token),
        target_entropy=plain.entropy,
    )


def top_alternatives(logits: NDArray[np.float32], probs: Floats, n: int) -> tuple[Alternative, ...]:
    """The n tokens a model holds most likely in its plain softmax, most likely first.

    logits, probs: one row [V] each, the latter warped. Tokens of probability 0 (logit -inf) are left out.
    """
    ids = top_ids(logits, n)
    best = logits[ids[0]]
    total = float(np.exp(logits - best).sum())  # in float32, by pairs: figures to look at
    return tuple(
        Alternative(int(token), math.exp(float(logits[token] - best)) / total, float(probs[token]))
        for token in ids
        if logits[token] != -np.inf
    )


def alternatives(
    logits: NDArray[np.float32], probs: Floats, n: int, kept_ids: Ids | None = None
) -> tuple[tuple[Alternative, ...], ...]:
    """`top_alternatives` of every row of logits and probs [rows, V]; kept_ids: the ids the logits are of, if not
    all."""
    if kept_ids is None:
        return tuple(top_alternatives(scores, row, n) for scores, row in zip(logits, probs, strict=True))
    rows = alternatives(logits, probs[:, kept_ids], n)
    return tuple(tuple(replace(each, id=int(kept_ids[each.id])) for each in row) for row in rows)


def residual_alternatives(residual: Floats, target_probs: Floats, n: int) -> tuple[Alternative, ...]:
    """The n most likely corrections: `warped_prob` is the residual's [V], `model_prob` the target's warped p [V]."""
    return tuple(
        Alternative(int(token), float(target_probs[token]), float(residual[token]))
        for token in top_ids(residual, n)
        if residual[token] > 0
    )
