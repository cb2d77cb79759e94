"""How an engine is made, written as JSON: what a process that is started fresh, on this machine or another, is told."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from app.engine.session import Session
from app.pairs.options import PairOptions


@dataclass(frozen=True, slots=True)
class Recipe:
    """factory: module:function, called with `chosen`, the name of the listed pair to load (None: the first), and with
    the arguments, which are JSON types; returns a session. Raises PlaygroundError."""

    factory: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def make(self, chosen: str | None = None) -> Session:
        """The session."""
        module, _, name = self.factory.partition(":")
        factory = cast(Callable[..., Session], getattr(importlib.import_module(module), name))
        return factory(chosen=chosen, **self.arguments)


def pair_recipe(own: PairOptions, acceptor: str | None = None, listed: dict[str, PairOptions] | None = None) -> Recipe:
    """The recipe of a pair, of the user's own acceptor (module:Name), and of the pairs it may be exchanged for by name,
    the pair itself among them."""
    arguments = {
        "own": written(own),
        "acceptor": acceptor,
        "listed": {name: written(options) for name, options in (listed or {}).items()},
    }
    return Recipe("app.hosting.recipe:pair_session", arguments)


def pair_session(
    own: dict[str, Any], acceptor: str | None, listed: dict[str, dict[str, Any]], chosen: str | None = None
) -> Session:
    """What `pair_recipe` describes. Raises PlaygroundError."""
    from app.engine.custom_acceptor import load_custom
    from app.pairs import registry

    custom = None if acceptor is None else load_custom(acceptor)
    pairs = {name: read(options) for name, options in listed.items()}
    first = read(own) if chosen is None else pairs[chosen]
    return Session(
        registry.load(first), custom, {name: registry.ListedPair(pair) for name, pair in pairs.items()}, chosen
    )


def written(options: PairOptions) -> dict[str, Any]:
    """The options as JSON types."""
    values = {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}
    return {name: {"path": str(value)} if isinstance(value, Path) else value for name, value in values.items()}


def read(values: dict[str, Any]) -> PairOptions:
    """What `written` wrote."""

    def value(written: Any) -> Any:
        if isinstance(written, dict):
            return Path(written["path"])
        return tuple(written) if isinstance(written, list) else written

    return PairOptions(**{name: value(each) for name, each in values.items()})
