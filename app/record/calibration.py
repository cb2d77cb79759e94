"""Is the draft as sure as it is right: how often its tokens are kept, by how likely it held them. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.record.intervals import Interval, share_interval
from app.record.trace import DraftedToken, Event, Round

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Judged drafts whose confidence lies in low (included) to high (excluded; the last bin ends at 1 included).

    confidence: their mean; accepted of judged were kept.
    """

    low: float
    high: float
    confidence: float
    accepted: int
    judged: int

    @property
    def acceptance(self) -> float:
        return self.accepted / self.judged

    @property
    def interval(self) -> Interval:
        """95%, of the acceptance."""
        return share_interval(self.accepted, self.judged)


def confidence(token: DraftedToken) -> float | None:
    """How likely the draft model held its token, in its plain softmax; None where a trace of version 1 does not
    tell."""
    if token.draft_model_prob is not None:
        return token.draft_model_prob
    return next((other.model_prob for other in token.draft_alternatives if other.id == token.id), None)


def calibrate(trace: Iterable[Event], bins: int = BINS) -> list[Bin]:
    """Acceptance by the draft's confidence, in equal bins from 0 to 1; those without a judged draft are left out.

    Looked-up tokens have no confidence and do not count. At temperature 0 a calibrated draft lies on the diagonal. At
    others the acceptor's coin has its say too, and a draft that agrees perfectly is kept always.
    """
    sums = [0.0] * bins
    accepted, judged = [0] * bins, [0] * bins
    for event in trace:
        if not isinstance(event, Round) or event.source == "lookup":
            continue
        for token in event.drafted:
            sure = confidence(token)
            if token.state == "discarded" or sure is None:
                continue
            place = min(int(sure * bins), bins - 1)
            sums[place] += sure
            judged[place] += 1
            accepted[place] += token.state == "accepted"
    return [
        Bin(place / bins, (place + 1) / bins, sums[place] / judged[place], accepted[place], judged[place])
        for place in range(bins)
        if judged[place]
    ]


def merged(bins: Iterable[Bin]) -> Bin | None:
    """Neighbouring bins as one; None for none."""
    parts = list(bins)
    if not parts:
        return None
    judged = sum(part.judged for part in parts)
    mean = sum(part.confidence * part.judged for part in parts) / judged
    return Bin(parts[0].low, parts[-1].high, mean, sum(part.accepted for part in parts), judged)


def calibration_error(bins: Iterable[Bin]) -> float | None:
    """Mean distance of acceptance from confidence over all judged drafts (expected calibration error); None for
    none."""
    parts = list(bins)
    judged = sum(part.judged for part in parts)
    return sum(abs(part.acceptance - part.confidence) * part.judged for part in parts) / judged if judged else None
