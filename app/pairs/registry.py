"""Pairs by description: which backends there are, by name, and how a pair is checked and loaded.

A backend is a room of `app.backends` with a module `loading` that has `prepare(options, freed)`; `promised(options)`
where something of a pair is known before it is loaded; and `STAYS`, a sentence, where a process that loaded such a pair
can load no other.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.engine.pair import Pair, Promised
from app.errors import PairError
from app.pairs import groups
from app.pairs.options import PairOptions

BACKENDS = ("openvino", "torch", "neuron", "llamacpp", "auto")
_ROOMS = {"auto": "app.backends.llamacpp.auto"}
"""Modules that are not named `app.backends.BACKEND.loading`."""


@dataclass(frozen=True, slots=True)
class ListedPair:
    """See `app.engine.pair.Listed`."""

    options: PairOptions

    @property
    def stays(self) -> str:
        return str(getattr(_loading(self.options.backend), "STAYS", ""))

    def prepare(self, freed: int = 0) -> Callable[[], Pair]:
        return prepare(self.options, freed)


def promised(options: PairOptions) -> Promised:
    """What the backend knows of the pair before anything is read. Raises PairError."""
    known: Promised = getattr(_loading(options.backend), "promised", lambda _: Promised())(options)
    return known


def load(options: PairOptions) -> Pair:
    """The pair, checked and ready to run. Raises PairError."""
    return prepare(options)()


def prepare(options: PairOptions, freed: int = 0) -> Callable[[], Pair]:
    """What loads the pair, once all that can be checked before is checked; freed: bytes given back in between.

    Raises PairError, then and on loading.
    """
    loading = _loading(options.backend)
    if options.n_positions is not None and options.n_positions < 2:
        raise PairError(f"A context of {options.n_positions} positions is too short; choose 2 or more.")
    if options.threads is not None and not 1 <= options.threads <= (os.cpu_count() or 1):
        raise PairError(f"{options.threads} threads cannot run here; choose 1 to {os.cpu_count()}.")
    if options.threads is None and (allowed := groups.processors()) < (os.cpu_count() or 1):
        # an engine counts the machine's processors, and a thread more than the container's quota stops them all
        options = dataclasses.replace(options, threads=allowed)
    from app.backends.checkpoints.hub_models import local

    prepared: Callable[[], Pair] = loading.prepare(local(options), freed)
    return prepared


def _loading(backend: str) -> Any:
    """The module that checks and loads a backend's pairs; its packages come in when it needs them. Raises PairError."""
    if backend not in BACKENDS:
        raise PairError(f"There is no backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
    return importlib.import_module(_ROOMS.get(backend, f"app.backends.{backend}.loading"))
