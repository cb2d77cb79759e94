"""A sweep: every variant on every prompt, several times over. Stdlib only.

Every run is a race of both arms; the variants take turns prompt by prompt, each prompt beginning with another, so that
a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from app.errors import RequestError
from app.record.standing import Sweep
from app.record.trace import Event, Request, Round, RunFinished, Trace
from app.record.variants import Variant

REPEATS = 3
"""Of every prompt with every variant: the fewest that tell a difference from chance."""


class Runner(Protocol):
    """What a sweep needs of a session."""

    @property
    def windows(self) -> tuple[int, ...] | None: ...
    def run(self, request: Request) -> Generator[Event, None, None]: ...


@dataclass(frozen=True, slots=True)
class Step:
    """How far a sweep is: runs done of all, what the next one is ("" after the last), and the share of it that is
    done."""

    done: int
    total: int
    doing: str
    sweep: Sweep
    within: float = 0.0

    @property
    def share(self) -> float:
        """Of the whole sweep, 0 to 1."""
        return (self.done + self.within) / self.total


def sweep(
    session: Runner,
    request: Request,
    prompts: Sequence[str],
    variants: Sequence[Variant],
    repeats: int = REPEATS,
    switch: Callable[[str], None] | None = None,
) -> Generator[Step, None, None]:
    """Run `request` with every variant on every prompt, `repeats` times. A step before each run, after each of its
    rounds, and one after the last run. switch: loads a pair by its name, before the runs of its variants.

    Raises RequestError before anything runs for what cannot work, and in between for a run that fails. Closing the
    generator closes the run under way.
    """
    check(session.windows, prompts, variants)
    _check_requests(session, request, prompts, variants)
    measured = Sweep(variants)
    order = list(_order(len(prompts), measured.variants, repeats))
    loaded = None
    for done, (turn, variant) in enumerate(order):
        prompt = prompts[turn % len(prompts)]
        step = Step(done, len(order), f"{measured.labels[variant]}: {_short(prompt)}", measured)
        yield step
        if variant.pair and variant.pair != loaded:
            assert switch is not None, variant
            switch(variant.pair)
            loaded = variant.pair
        trace: Trace = []
        tokens = 0
        with closing(session.run(variant.request(request, prompt))) as events:
            for event in events:
                trace.append(event)
                if isinstance(event, Round):
                    tokens += len(event.token_ids)
                    yield replace(step, within=min(1.0, tokens / (2 * request.max_tokens)))
        last = trace[-1]
        if isinstance(last, RunFinished) and last.reason == "error":
            raise RequestError(last.message)
        measured.add(trace, variant, turn)
    yield Step(len(order), len(order), "", measured)


def _order(prompts: int, variants: Sequence[Variant], repeats: int) -> Iterator[tuple[int, Variant]]:
    """Turns (every prompt, as often as it is repeated) with their variants: a pair is loaded once a repeat, and within
    it each turn begins with another variant."""
    pairs = list(dict.fromkeys(variant.pair for variant in variants))
    for repeat in range(repeats):
        for pair in pairs:
            own = [variant for variant in variants if variant.pair == pair]
            for turn in range(repeat * prompts, (repeat + 1) * prompts):
                for place in range(len(own)):
                    yield turn, own[(turn + place) % len(own)]


def check(windows: tuple[int, ...] | None, prompts: Sequence[str], variants: Sequence[Variant]) -> None:
    """Raises RequestError unless there is something to sweep. windows: those the pair can run, None = any."""
    if not prompts:
        raise RequestError("There is no prompt to sweep; type one, or choose examples.")
    if not variants:
        raise RequestError("There is nothing to sweep; choose a window at least.")
    absent = [variant.k for variant in variants if windows is not None and variant.width and variant.k not in windows]
    if windows is not None and absent:
        known = ", ".join(map(str, windows))
        raise RequestError(f"The window k = {absent[0]} was not compiled; choose among {known}.")


def _check_requests(session: Runner, request: Request, prompts: Sequence[str], variants: Sequence[Variant]) -> None:
    """Raises RequestError for a run that the loaded pair would refuse: asking for one checks it, and runs nothing."""
    for variant in variants:
        if not variant.pair:
            for prompt in prompts:
                session.run(variant.request(request, prompt)).close()


def _short(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
