"""A loaded pair, and one that may be loaded: what a session needs of either."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.engine.model import Model, Tokenizer
from app.record.trace import Round


class ReferenceLoop(Protocol):
    """An engine's own speculative loop over the same models, run to compare with."""

    def __call__(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        k: int,
        stop_ids: frozenset[int],
        seed: int,
        acceptor: Any = None,
    ) -> Generator[Round, None, None]:
        """The rounds of the speculative arm. acceptor: as the user declared it, None for the loop's own."""
        ...


@dataclass(frozen=True, slots=True)
class Promised:
    """What is known of a pair before it is loaded. windows: the sizes of k it can be asked for, None = any;
    reference_loop: whether the engine brings its own loop."""

    windows: tuple[int, ...] | None = None
    reference_loop: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """A target, its draft (None: target-only), and the tokenizer they share. reference_loop: the engine's own loop,
    where it brings one. stays: why the process cannot load another pair after this one; empty where it can. notes: what
    a person should know of it, a sentence each."""

    name: str
    backend: str
    target: Model
    draft: Model | None
    tokenizer: Tokenizer
    reference_loop: ReferenceLoop | None = None
    stays: str = ""
    notes: tuple[str, ...] = ()

    @property
    def promised(self) -> Promised:
        return Promised(self.target.windows, self.reference_loop is not None)


class Listed(Protocol):
    """A pair by its description, not loaded."""

    @property
    def stays(self) -> str:
        """See `Pair.stays`."""
        ...

    def prepare(self, freed: int = 0) -> Callable[[], Pair]:
        """What loads the pair, once all that can be checked before is checked; freed: bytes given back in between.

        Raises PairError, then and on loading.
        """
        ...
