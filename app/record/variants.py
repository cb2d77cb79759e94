"""What a sweep compares: a window, an acceptor, a drafter, a temperature, a pair, or every combination of several.
Stdlib only."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.errors import RequestError
from app.record.limits import AUTO, MAX_K, MIN_K, K
from app.record.trace import Request


@dataclass(frozen=True, slots=True)
class Variant:
    """The settings that a sweep varies; all others are its request's. pair: by its name in the list of pairs; "" for
    the loaded one."""

    k: K
    acceptor: str
    drafter: str
    temperature: float
    pair: str = ""

    def request(self, base: Request, prompt: str) -> Request:
        """The base with these settings: both arms, one prompt."""
        sampling = replace(base.sampling, temperature=self.temperature)
        return replace(
            base, prompt=prompt, k=self.k, acceptor=self.acceptor, drafter=self.drafter, sampling=sampling, arms="both"
        )

    @property
    def width(self) -> int:
        """Of its window; 0 for auto, which is no width."""
        return self.k if isinstance(self.k, int) else 0

    @property
    def flags(self) -> str:
        """The flags of the command line that use it (a pair is chosen by its file)."""
        return f"--k {self.k} --acceptor {self.acceptor} --drafter {self.drafter} --temperature {self.temperature:g}"


def variants(
    request: Request,
    *,
    ks: Iterable[K] = (),
    acceptors: Iterable[str] = (),
    drafters: Iterable[str] = (),
    temperatures: Iterable[float] = (),
    pairs: Iterable[str] = (),
) -> tuple[Variant, ...]:
    """Every combination of what is listed, each once; where nothing is listed the request's own setting holds.

    Raises RequestError for a window that cannot be.
    """
    windows = sorted(dict.fromkeys(ks), key=lambda k: (k == AUTO, k)) or [request.k]
    for k in windows:
        if k != AUTO and not (isinstance(k, int) and MIN_K <= k <= MAX_K):
            raise RequestError(f"k = {k} cannot be swept; choose windows from {MIN_K} to {MAX_K}, or auto.")
    sides = (
        windows,
        list(dict.fromkeys(acceptors)) or [request.acceptor],
        list(dict.fromkeys(drafters)) or [request.drafter],
        list(dict.fromkeys(temperatures)) or [request.sampling.temperature],
    )
    named = list(dict.fromkeys(pairs)) or [""]
    return tuple(Variant(*settings, pair=pair) for pair in named for settings in itertools.product(*sides))


def labels(all_: Sequence[Variant]) -> dict[Variant, str]:
    """What tells each from the others, in words: only what varies; the window where nothing does."""
    varied = [name for name in _WORDS if name in varies(all_)] or ["k"]
    return {each: ", ".join(_WORDS[name].format(getattr(each, name)) for name in varied) for each in all_}


_WORDS = {"pair": "{}", "k": "k = {}", "acceptor": "{}", "drafter": "{}", "temperature": "T = {:g}"}


def varies(all_: Sequence[Variant]) -> set[str]:
    """The names of the settings in which they differ."""
    return {name for name in _WORDS if len({getattr(each, name) for each in all_}) > 1}
