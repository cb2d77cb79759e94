"""A loaded pair and its lock: `run(request)` yields the events of one run."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from app.engine.acceptance import ACCEPTORS, Acceptor, Upstream, find
from app.engine.arms import Arms
from app.engine.model import Model
from app.engine.pair import Listed, Pair
from app.engine.race import race
from app.engine.requests import drafters, prompt_ids, validate
from app.errors import PairError, PlaygroundError, RequestError
from app.machine import process_memory
from app.record.limits import DEFAULT_K, MAX_K
from app.record.pieces import piece_text
from app.record.trace import (
    Event,
    ModelCard,
    Request,
    Round,
    RunFinished,
    RunStarted,
    TokenTexts,
    mentioned_ids,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AcceptorCard:
    """What the page says of an acceptor."""

    name: str
    description: str
    lossless: bool
    same_text: bool


class Session:
    """One pair on one device; runs take turns."""

    max_k = MAX_K
    default_k = DEFAULT_K

    def __init__(
        self,
        pair: Pair,
        custom: Acceptor | None = None,
        listed: Mapping[str, Listed] | None = None,
        chosen: str | None = None,
    ) -> None:
        """custom: an acceptor loaded from the command line, offered beside the built-in ones. listed: the pairs that
        `switch` may load, by name; `pair` is the one named `chosen`, or the first."""
        self._custom = custom
        self._listed = dict(listed or {})
        self._lock = threading.Lock()
        self._ready = threading.Event()  # a pair is loaded, or none can be
        self.pairs = tuple(self._listed) or (pair.name,)
        self.chosen = chosen or self.pairs[0]
        offered = [*ACCEPTORS.values(), *([custom] if custom else [])]
        self.acceptors = tuple(AcceptorCard(a.name, a.description, a.lossless, a.same_text) for a in offered)
        self._switches = 0
        self._take(pair)

    def _take(self, pair: Pair) -> None:
        self._loaded: Pair | None = pair
        self._arms: Arms | None = Arms(pair)
        self.pair, self.backend, self.device = pair.name, pair.backend, pair.target.device
        self.target = _card(pair.target)
        self.draft = None if pair.draft is None else _card(pair.draft)
        self.drafters = drafters(pair)
        self.windows = pair.target.windows
        self.bit_identical = pair.target.bit_identical
        self.has_chat_template = pair.tokenizer.has_chat_template
        self.notes = pair.notes
        self.stays = pair.stays
        self._ready.set()

    @property
    def loaded(self) -> Pair:
        """The loaded pair, waited for while it is switched. Raises RequestError where none could be loaded."""
        self._ready.wait()
        if self._loaded is None:
            raise RequestError("No pair is loaded, since the last one could not be; choose another pair.")
        return self._loaded

    def switch(self, name: str) -> None:
        """Load the listed pair of this name in place of the loaded one, which is freed first.

        Waits for the run before it. Raises RequestError or PairError, and the loaded pair stays: all that can be known
        beforehand is checked before it is given up, and where loading fails all the same it is loaded again.
        """
        if name not in self._listed:
            raise RequestError(f"There is no pair {name!r} here; choose one of {', '.join(self.pairs)}.")
        with self._lock:
            if name == self.chosen and self._loaded is not None:
                return
            wanted, before = self._listed[name], self._listed[self.chosen]
            if stays := self.stays or wanted.stays:
                raise PairError(stays)
            held = 0 if self._loaded is None else sum(card.memory for card in (self.target, self.draft) if card)
            load = wanted.prepare(held)
            self._ready.clear()
            self._loaded = self._arms = None
            gc.collect()  # models and their caches hold on to each other
            self._switches += 1
            try:
                self._take(load())
                self.chosen = name
            except Exception:
                self._take(before.prepare()())
                raise
            finally:
                self._ready.set()

    def run(
        self, request: Request, *, upstream: bool = False, stopped: Callable[[], bool] | None = None
    ) -> Generator[Event, None, None]:
        """The events of a run: RunStarted, then rounds with the texts they need, RunFinished last.

        upstream: the speculative arm runs the engine's own loop, as a reference. stopped: for an engine that can end a
        round under way, which this one cannot: close the generator. Raises RequestError here, before any
        event, for a request that cannot work; what fails later ends the run with a RunFinished that says so. Waits for
        the run before it. Closing the generator frees the device.
        """
        switches = self._switches
        ids = self._checked(request, upstream)
        return self._events(request, ids, upstream, switches)

    def prepare(self) -> Iterator[None]:
        """Make what first runs would wait for, a step at a time, of two seconds at most: for who has nothing else to
        do. Not while a run is on."""
        if self._arms is not None:
            yield from self._arms.prepare()

    def memory(self) -> int:
        """Bytes this process holds."""
        return process_memory()

    def count(self, request: Request) -> int | None:
        """Tokens the prompt becomes as it is fed; None while a run is on or a pair is loaded, which come first. Raises
        RequestError for one that has no room."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return len(self.prompt_ids(request))
        finally:
            self._lock.release()

    def prompt_ids(self, request: Request) -> list[int]:
        """See `requests.prompt_ids`."""
        return prompt_ids(self.loaded, request)

    def _checked(self, request: Request, upstream: bool) -> list[int]:
        validate(self.loaded, request, upstream)
        self._acceptor(request.acceptor)
        return self.prompt_ids(request)

    def _acceptor(self, name: str) -> Acceptor:
        return self._custom if self._custom is not None and name == self._custom.name else find(name)

    def _events(self, request: Request, ids: list[int], upstream: bool, switches: int) -> Generator[Event, None, None]:
        with self._lock:
            if switches != self._switches:  # another pair came while this run waited: its ids are other ones
                ids = self._checked(request, upstream)
            acceptor = self._acceptor(request.acceptor)
            yield self._started(request, acceptor, len(ids), upstream)
            known: set[int] = set()
            reasons = {}
            try:
                with closing(self._rounds(request, ids, acceptor, upstream)) as rounds:
                    for round_ in rounds:
                        if new := mentioned_ids(round_) - known:
                            known |= new
                            yield self._texts(new)
                        reasons[round_.arm] = round_.finish_reason
                        yield round_
            except PlaygroundError as error:
                yield RunFinished("error", str(error))
                return
            except Exception as error:
                log.exception("run failed")
                yield RunFinished(
                    "error",
                    f"The run failed inside the {self.backend} backend ({type(error).__name__}: {error}); "
                    "run it again, and report it if it comes back.",
                )
                return
            yield RunFinished(next((r for r in ("context", "length") if r in reasons.values()), "stop"))

    def _started(self, request: Request, acceptor: Acceptor, prompt_tokens: int, upstream: bool) -> RunStarted:
        """upstream: what an acceptor promises, it promises of this loop, not of another."""
        own_acceptor = acceptor is self._custom
        return RunStarted(
            request=request if own_acceptor or not upstream else replace(request, acceptor=Upstream.name),
            pair=self.pair,
            backend=self.backend,
            device=self.device,
            target=self.target,
            draft=self.draft,
            prompt_tokens=prompt_tokens,
            lossless=acceptor.lossless and not upstream,
            bit_identical=self.bit_identical,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            same_text=acceptor.same_text and not upstream,
            engine="upstream" if upstream else "own",
        )

    def _rounds(
        self, request: Request, ids: list[int], acceptor: Acceptor, upstream: bool
    ) -> Generator[Round, None, None]:
        """Both arms' rounds, racing."""
        pair = self.loaded
        assert self._arms is not None
        arms = self._arms.of(request, ids, acceptor)
        if upstream and "speculative" in arms:
            assert pair.reference_loop is not None
            assert isinstance(request.k, int)
            arms["speculative"] = pair.reference_loop(
                ids,
                max_tokens=request.max_tokens,
                k=request.k,
                stop_ids=pair.tokenizer.stop_ids,
                seed=request.sampling.seed,
                acceptor=getattr(self._custom, "declared", None),
            )
        yield from race(arms, one_at_a_time=pair.target.max_sequences == 1)

    def _texts(self, ids: set[int]) -> TokenTexts:
        tokenizer = self.loaded.tokenizer
        ordered = sorted(ids)
        special = tuple(i for i in ordered if tokenizer.is_special(i))
        return TokenTexts({i: piece_text(tokenizer.piece(i)) for i in ordered}, special)


def _card(model: Model) -> ModelCard:
    return ModelCard(
        name=model.name,
        num_parameters=model.num_parameters,
        dtype=model.dtype,
        memory=model.memory(),
        vocab_size=model.vocab_size,
        n_positions=model.n_positions,
        row_difference=getattr(model, "row_difference", None),  # of a backend that looks for it
    )
