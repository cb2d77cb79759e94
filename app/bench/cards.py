"""How far the speculative arm leads on each example card of the page: what their order goes by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from app.engine.session import Session
from app.errors import RequestError
from app.places import ASSETS
from app.record.conversation import messages_of
from app.record.limits import DEFAULT_K, DEFAULT_MAX_TOKENS
from app.record.metrics import Metrics
from app.record.trace import Request, Sampling

CARDS = ASSETS / "cards.json"
_SAMPLING = ("temperature", "top_p", "top_k", "seed")


@dataclass(frozen=True, slots=True)
class Lead:
    """A card's run, over its repeats. speedup: their median. tokens: the target's. passes: of each arm, the prefill
    too."""

    title: str
    speedup: float
    tokens: int
    target_passes: int
    speculative_passes: int
    same_text: bool


def request_of(settings: Mapping[str, Any]) -> Request:
    """A card's settings as the page's knobs would ask for them."""
    rest = {name: value for name, value in settings.items() if name not in _SAMPLING}
    sampling = {name: value for name, value in settings.items() if name in _SAMPLING}
    rest["messages"] = messages_of(list(rest.get("messages", ())))
    return Request(**{"k": DEFAULT_K, "max_tokens": DEFAULT_MAX_TOKENS, **rest, "sampling": Sampling(**sampling)})


def lead(session: Session, card: Mapping[str, Any], repeats: int) -> Lead:
    """Runs the card, after one run that warms the pair up. Raises RequestError where it cannot run."""
    runs = [Metrics(session.run(request_of(card["settings"]))) for _ in range(repeats + 1)][1:]
    for metrics in runs:
        if metrics.reason == "error":
            raise RequestError(f"{card['title']}: {metrics.message}")
    target, speculative = (runs[-1].arms[arm] for arm in ("target", "speculative"))
    return Lead(
        title=card["title"],
        speedup=median(metrics.speedup or 0.0 for metrics in runs),
        tokens=target.tokens,
        target_passes=target.rounds + 1,
        speculative_passes=speculative.rounds + 1,
        same_text=runs[-1].first_divergence is None,
    )


def ordered(cards: Sequence[Mapping[str, Any]], leads: Sequence[Lead]) -> list[Mapping[str, Any]]:
    """The cards as the page shows them: first the one that leads most with one text, then the others by their lead."""
    by_lead = sorted(zip(cards, leads, strict=True), key=lambda pair: -pair[1].speedup)
    first = next((pair for pair in by_lead if pair[1].same_text), by_lead[0])
    return [card for card, _ in [first, *(pair for pair in by_lead if pair is not first)]]


def table(session: Session, cards: Sequence[Mapping[str, Any]], repeats: int, leads: list[Lead]) -> Iterator[str]:
    """The lines of a Markdown table, each as its card has run; what was measured is put into `leads`."""
    yield "| card | times as fast | tokens | passes | text |"
    yield "| --- | --- | --- | --- | --- |"
    for card in cards:
        measured = lead(session, card, repeats)
        leads.append(measured)
        yield (
            f"| {measured.title} | {measured.speedup:.2f} | {measured.tokens} | {measured.target_passes} → "
            f"{measured.speculative_passes} | {'the same' if measured.same_text else 'another'} |"
        )


def read_cards(path: Path = CARDS) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return cards


def candidates(prompts: Sequence[str], k: int) -> list[dict[str, Any]]:
    """Cards of prompts alone, for the choice of one."""
    return [{"title": prompt, "settings": {"prompt": prompt, "k": k}} for prompt in prompts]


def write(cards: Sequence[Mapping[str, Any]], path: Path = CARDS) -> None:
    """One card after the other, its settings on a line."""
    lines = [
        "{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in card.items())
        + "\n }"
        for card in cards
    ]
    path.write_text("[\n " + ",\n ".join(lines) + "\n]\n", encoding="utf-8")
