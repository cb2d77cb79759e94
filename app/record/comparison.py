"""Runs side by side: what differs in their settings, figures with their differences, where their texts part. Stdlib
only.

A run is compared by its `Card`, which holds all of it that is read side by side and is small enough to be kept in
dozens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.errors import RequestError
from app.record.conversation import asked
from app.record.metrics import ArmMetrics, Metrics
from app.record.pieces import join_pieces, whole_pieces
from app.record.trace import ARMS, Arm, Event, RunStarted
from app.record.typed import build

FIGURES: dict[str, tuple[str, bool | None]] = {
    "speedup": ("×", True),
    "target_tpot_s": ("s", False),
    "tpot_s": ("s", False),
    "mean_acceptance_length": ("", True),
    "acceptance_rate": ("", True),
    "draft_acceptance_rate": ("", True),
    "ttft_s": ("s", False),
    "passes": ("", False),
    "tokens": ("", None),
    "total_variation": ("", False),
    "agreed": ("", None),
}
"""Each figure's unit, and whether more of it is better (None: neither). But for the second, of the speculative arm."""


@dataclass(frozen=True, slots=True)
class Point:
    """The running TPOT after so many tokens."""

    tokens: int
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Card:
    """A run, as it is compared. settings: all that decides its result, in words. figures: those of `FIGURES`. tpot: of
    the speculative arm, after each of its rounds. pieces: the text of every token of each arm that ran, in order."""

    created: str
    settings: dict[str, str]
    figures: dict[str, float | None]
    tpot: tuple[Point, ...]
    acceptance_by_position: tuple[float, ...]
    target_pieces: tuple[str, ...]
    speculative_pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in which the runs differ; values in their order ("–" where a run has none)."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of all runs. changes: of each against the first, as a share of it (0.1: 10% more); None where either is
    not known, or the first is 0. better: whether more is better; None: neither."""

    name: str
    unit: str
    values: tuple[float | None, ...]
    changes: tuple[float | None, ...]
    better: bool | None


@dataclass(frozen=True, slots=True)
class Parting:
    """Where another run's text parts from the first's. token: the index of the first token that differs, from 0; None
    where the texts are the same. shared: the text before it; first, other: what follows in each."""

    token: int | None
    shared: str
    first: str
    other: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs or more, the first the one that others are held against. partings: one for each of the others."""

    cards: tuple[Card, ...]
    settings: tuple[Setting, ...]
    figures: tuple[Figure, ...]
    partings: tuple[Parting, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def card_of(trace: Iterable[Event]) -> Card:
    """A run's card. Raises RequestError where it has no round."""
    metrics = Metrics(trace)
    if metrics.started is None or not metrics.arms:
        raise RequestError("This run ended before its first token, so there is nothing to compare; run it again.")
    target, arm = metrics.arms.get("target"), metrics.arms.get("speculative")
    own = arm if arm is not None else ArmMetrics()
    figures = {
        "speedup": metrics.speedup,
        "target_tpot_s": target.tpot_s if target else None,
        "tpot_s": own.tpot_s,
        "mean_acceptance_length": own.mean_acceptance_length,
        "acceptance_rate": own.acceptance_rate,
        "draft_acceptance_rate": own.draft_acceptance_rate,
        "ttft_s": own.ttft_s,
        "passes": float(own.rounds) if arm else None,
        "tokens": float((arm or target or own).tokens),
        "total_variation": own.total_variation,
        "agreed": float(metrics.agreed) if len(metrics.arms) == len(ARMS) else None,
    }
    assert set(figures) == set(FIGURES)
    return Card(
        created=metrics.started.created,
        settings=settings(metrics.started),
        figures=figures,
        tpot=tuple(running_tpot(own)),
        acceptance_by_position=tuple(own.acceptance_by_position),
        target_pieces=_pieces(metrics, "target"),
        speculative_pieces=_pieces(metrics, "speculative"),
    )


def card_from_json(data: Any) -> Card:
    """A card from JSON types, checked. Raises TraceError."""
    card: Card = build(Card, data, "Card")
    return card


def settings(started: RunStarted) -> dict[str, str]:
    """All that decides a run's result, in words, in the order people ask for it."""
    request, sampling = started.request, started.request.sampling
    return {
        "prompt": asked(request),
        "turns": str(1 + sum(message.get("role") == "assistant" for message in request.messages)),
        "pair": started.pair,
        "precision": started.target.dtype,
        "draft precision": started.draft.dtype if started.draft else "–",
        "k": str(request.k),
        "acceptor": request.acceptor,
        "drafter": request.drafter,
        "temperature": f"{sampling.temperature:g}",
        "top_p": f"{sampling.top_p:g}",
        "top_k": str(sampling.top_k),
        "seed": str(sampling.seed),
        "max tokens": str(request.max_tokens),
        "arms": request.arms,
        "system prompt": request.system or "–",
        "chat template": "on" if request.chat_template else "off",
        "backend": started.backend,
        "device": started.device,
    }


def running_tpot(arm: ArmMetrics) -> list[Point]:
    """TPOT so far, after each round but the prefill."""
    points: list[Point] = []
    for tokens, clock in enumerate(arm.arrivals, start=1):
        if tokens == 1:
            continue
        if points and tokens - 1 == points[-1].tokens and arm.arrivals[tokens - 2] == clock:
            points.pop()  # the tokens of a round share a moment: the last of them closes it
        points.append(Point(tokens, (clock - arm.arrivals[0]) / (tokens - 1)))
    return points


def _pieces(metrics: Metrics, arm: Arm) -> tuple[str, ...]:
    ids = metrics.arms[arm].token_ids if arm in metrics.arms else []
    return tuple(whole_pieces("" if id_ in metrics.special else metrics.pieces.get(id_, "") for id_ in ids))


def compare(cards: Sequence[Card]) -> Comparison:
    """Two cards or more, against the first. Raises RequestError for fewer."""
    if len(cards) < 2:
        raise RequestError("One run cannot be compared; pin two or more.")
    first = cards[0]
    names = list(dict.fromkeys(name for card in cards for name in card.settings))
    rows = [Setting(name, tuple(card.settings.get(name, "–") for card in cards)) for name in names]
    return Comparison(
        cards=tuple(cards),
        settings=tuple(row for row in rows if len(set(row.values)) > 1),
        figures=tuple(
            figure
            for figure in (_figure(name, cards) for name in FIGURES)
            if any(value is not None for value in figure.values)
        ),
        partings=tuple(_parting(_answer(first), _answer(other)) for other in cards[1:]),
    )


def _figure(name: str, cards: Sequence[Card]) -> Figure:
    unit, better = FIGURES[name]
    values = tuple(card.figures.get(name) for card in cards)
    first = values[0]
    changes = tuple(value / first - 1 if value is not None and first else None for value in values)
    return Figure(name, unit, values, changes, better)


def _answer(card: Card) -> tuple[str, ...]:
    """The speculative arm's text where it ran, else the target's."""
    return card.speculative_pieces or card.target_pieces


def _parting(first: Sequence[str], other: Sequence[str]) -> Parting:
    same = next((i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other)))
    differs = same < max(len(first), len(other))
    return Parting(
        same if differs else None, join_pieces(first[:same]), join_pieces(first[same:]), join_pieces(other[same:])
    )
