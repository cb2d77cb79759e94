"""Small traces written by hand, whose every figure can be worked out on paper."""

from __future__ import annotations

from app.record.limits import K
from app.record.trace import (
    Alternative,
    Arm,
    Arms,
    DraftedToken,
    Event,
    FinalToken,
    FinishReason,
    ModelCard,
    Provenance,
    Request,
    Round,
    RunFinished,
    RunStarted,
    Sampling,
    State,
    TokenTexts,
)

PIECES = {0: "<|end|>", 1: "The", 2: " cat", 3: " sat", 4: " on", 5: " a", 6: " mat", 7: ".", 8: " \udcc3", 9: "\udca9"}
"""8 and 9 are the two halves of a split é."""


def started(arms: Arms = "both", k: K = 4, temperature: float = 0.0) -> RunStarted:
    return RunStarted(
        request=Request(prompt="Hello", k=k, arms=arms, max_tokens=16, sampling=Sampling(temperature=temperature)),
        pair="toy",
        backend="toy",
        device="CPU",
        target=ModelCard("toy target", 1000, "f32", 4000, 10, 64),
        draft=ModelCard("toy draft", 100, "f32", 400, 10, 64),
        prompt_tokens=5,
        lossless=True,
        bit_identical=True,
        created="2024-01-01T00:00:00+00:00",
    )


def texts() -> TokenTexts:
    return TokenTexts(PIECES, special=(0,))


def drafted(id_: int, state: State, q: float = 0.5, p: float = 0.4, u: float | None = 0.25) -> DraftedToken:
    judged = state != "discarded"
    return DraftedToken(
        id=id_,
        state=state,
        q=q,
        p=p,
        u=u if judged else None,
        threshold=min(1.0, p / q) if judged and u is not None else None,
        draft_alternatives=(Alternative(id_, q, q), Alternative(7, 0.1, 0.1)),
        target_alternatives=(Alternative(id_, p, p), Alternative(6, 0.3, 0.3)),
    )


def final(id_: int, provenance: Provenance, p: float = 0.9) -> FinalToken:
    residual = (Alternative(id_, p, 0.8),) if provenance == "corrected" else ()
    return FinalToken(id_, provenance, p, (Alternative(id_, p, p),), residual)


def target_arm(*ids: int, finish_reason: FinishReason | None = "length") -> list[Event]:
    """One token a round: a prefill of 20 ms, then 10 ms each (9 verify, 1 host)."""
    return [
        Round(
            index=index,
            arm="target",
            drafted=(),
            final=final(id_, "target"),
            draft_seconds=0.0,
            verify_seconds=0.009 if index else 0.019,
            host_seconds=0.001,
            finish_reason=finish_reason if index == len(ids) - 1 else None,
        )
        for index, id_ in enumerate(ids)
    ]


def speculative_round(
    index: int,
    drafts: tuple[DraftedToken, ...],
    last: FinalToken | None,
    finish_reason: FinishReason | None = None,
    total_variation: float | None = None,
) -> Round:
    """12 ms to verify, 1 ms for each draft, 1 ms of host."""
    return Round(index, "speculative", drafts, last, 0.001 * len(drafts), 0.012, 0.001, total_variation, finish_reason)


SPECULATIVE: tuple[Event, ...] = (
    Round(0, "speculative", (), final(1, "target"), 0.005, 0.019, 0.001),
    # all three kept, and the bonus
    speculative_round(1, (drafted(2, "accepted"), drafted(3, "accepted"), drafted(4, "accepted")), final(5, "bonus")),
    # one kept, one refused, one never judged
    speculative_round(
        2,
        (drafted(6, "accepted"), drafted(5, "rejected", q=0.8, p=0.2, u=0.75), drafted(4, "discarded")),
        final(7, "corrected"),
        total_variation=1e-9,
    ),
    # the tail: the window no longer fits
    speculative_round(3, (), final(2, "target"), finish_reason="length"),
)
"""Emits 1 | 2 3 4 5 | 6 7 | 2."""


def trace() -> list[Event]:
    """Both arms write the same eight tokens."""
    return [
        started(),
        texts(),
        *target_arm(1, 2, 3, 4, 5, 6, 7, 2),
        *SPECULATIVE,
        RunFinished("length"),
    ]


def arm_of(event: Event) -> Arm | None:
    return event.arm if isinstance(event, Round) else None
