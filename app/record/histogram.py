"""How many drafts a round keeps. Stdlib only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from app.record.trace import Event, rounds


def kept_per_round(trace: Iterable[Event]) -> list[int]:
    """Of the rounds that drafted, how many kept 0 drafts, 1, 2, ...; [] where none drafted.

    The list is as long as the widest of them allows, so that what never happened is seen to be 0.
    """
    drafting = [round_ for round_ in rounds(trace, "speculative") if round_.drafted]
    counts = Counter(len(round_.accepted) for round_ in drafting)
    widest = max((len(round_.drafted) for round_ in drafting), default=-1)
    return [counts[kept] for kept in range(widest + 1)]


def nothing_kept(trace: Iterable[Event]) -> list[int]:
    """The indices of the rounds that drafted and kept nothing."""
    return [round_.index for round_ in rounds(trace, "speculative") if round_.drafted and not round_.accepted]
