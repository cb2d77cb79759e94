"""What happens along the answer: the target's entropy, how far the draft is from it, what is kept. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.record.trace import DraftedToken, Event, Round, rounds

WINDOW = 16
"""Judged drafts that the running acceptance looks back on."""


@dataclass(frozen=True, slots=True)
class Place:
    """One token of the speculative arm's answer, the first at 0.

    entropy: of the target's plain softmax there, nats. divergence: KL of the draft's from it, nats. overlap: Σ min(p,
    q) after the warp. kept: whether the draft at this place was kept; None where none was judged (a bonus, the tail).
    acceptance: the share kept of the last `WINDOW` judged drafts, this one included; None before the first. What a
    trace of version 1 did not record is None.
    """

    index: int
    entropy: float | None
    divergence: float | None
    overlap: float | None
    kept: bool | None
    acceptance: float | None


def along_answer(trace: Iterable[Event], window: int = WINDOW) -> list[Place]:
    """Every token of the speculative arm's answer, in order; [] where that arm did not run."""
    places: list[Place] = []
    judged: list[bool] = []
    for round_ in rounds(trace, "speculative"):
        for entropy, draft, kept in _emitted(round_):
            if kept is not None:
                judged.append(kept)
            places.append(
                Place(
                    index=len(places),
                    entropy=entropy,
                    divergence=draft.divergence if draft else None,
                    overlap=draft.overlap if draft else None,
                    kept=kept,
                    acceptance=_share(judged[-window:]),
                )
            )
    return places


def _emitted(round_: Round) -> list[tuple[float | None, DraftedToken | None, bool | None]]:
    """Each emitted token: the target's entropy at its place, the draft judged there, and whether that was kept."""
    emitted: list[tuple[float | None, DraftedToken | None, bool | None]] = [
        (token.target_entropy, token, True) for token in round_.accepted
    ]
    if round_.final is not None:
        place = len(emitted)
        refused = round_.drafted[place] if place < len(round_.drafted) else None
        emitted.append((round_.final.target_entropy, refused, None if refused is None else False))
    return emitted


def _share(kept: Sequence[bool]) -> float | None:
    return sum(kept) / len(kept) if kept else None
