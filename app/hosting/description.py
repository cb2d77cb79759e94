"""What an engine says of itself, as values and as JSON: all that the page shows of a loaded pair."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from app.engine.session import AcceptorCard, Session
from app.record.trace import ModelCard


@dataclass(frozen=True, slots=True)
class Description:
    """See `app.engine.session.Session`, whose attributes these are. stays: see `app.engine.pair.Pair`."""

    pair: str
    backend: str
    device: str
    target: ModelCard
    draft: ModelCard | None
    windows: tuple[int, ...] | None
    max_k: int
    default_k: int
    bit_identical: bool
    has_chat_template: bool
    acceptors: tuple[AcceptorCard, ...]
    drafters: tuple[str, ...]
    pairs: tuple[str, ...]
    chosen: str
    stays: str
    notes: tuple[str, ...]


def of(session: Session) -> Description:
    """What the session holds at this moment."""
    return Description(
        pair=session.pair,
        backend=session.backend,
        device=session.device,
        target=session.target,
        draft=session.draft,
        windows=session.windows,
        max_k=session.max_k,
        default_k=session.default_k,
        bit_identical=session.bit_identical,
        has_chat_template=session.has_chat_template,
        acceptors=session.acceptors,
        drafters=session.drafters,
        pairs=session.pairs,
        chosen=session.chosen,
        stays=session.stays,
        notes=session.notes,
    )


def to_dict(description: Description) -> dict[str, Any]:
    return asdict(description)


def from_dict(data: dict[str, Any]) -> Description:
    """What `to_dict` made, read from JSON."""
    values = dict(data)
    values["target"] = ModelCard(**values["target"])
    values["draft"] = None if values["draft"] is None else ModelCard(**values["draft"])
    values["acceptors"] = tuple(AcceptorCard(**card) for card in values["acceptors"])
    for name in ("windows", "drafters", "pairs", "notes"):
        values[name] = None if values[name] is None else tuple(values[name])
    return Description(**values)
