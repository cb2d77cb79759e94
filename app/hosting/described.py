"""An engine that is somewhere else, as it described itself: the attributes of a session."""

from __future__ import annotations

from app.engine.session import AcceptorCard
from app.hosting.description import Description
from app.record.trace import ModelCard


class Described:
    """What an engine said of itself last. See `app.engine.session.Session`, whose attributes these are."""

    def __init__(self, described: Description) -> None:
        self._described = described

    @property
    def described(self) -> Description:
        return self._described

    @property
    def pair(self) -> str:
        return self._described.pair

    @property
    def backend(self) -> str:
        return self._described.backend

    @property
    def device(self) -> str:
        return self._described.device

    @property
    def target(self) -> ModelCard:
        return self._described.target

    @property
    def draft(self) -> ModelCard | None:
        return self._described.draft

    @property
    def windows(self) -> tuple[int, ...] | None:
        return self._described.windows

    @property
    def max_k(self) -> int:
        return self._described.max_k

    @property
    def default_k(self) -> int:
        return self._described.default_k

    @property
    def bit_identical(self) -> bool:
        return self._described.bit_identical

    @property
    def notes(self) -> tuple[str, ...]:
        return self._described.notes

    @property
    def has_chat_template(self) -> bool:
        return self._described.has_chat_template

    @property
    def acceptors(self) -> tuple[AcceptorCard, ...]:
        return self._described.acceptors

    @property
    def drafters(self) -> tuple[str, ...]:
        return self._described.drafters

    @property
    def pairs(self) -> tuple[str, ...]:
        return self._described.pairs

    @property
    def chosen(self) -> str:
        return self._described.chosen
