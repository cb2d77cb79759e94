"""A loaded pair and its lock: `run(request)` yields the events of one run."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import resource
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone

from app.engine import sampling
from app.engine.acceptance import ACCEPTORS, Acceptor, find
from app.engine.decode import Limits, decode
from app.engine.drafting import Drafter, EitherDrafter, LookupDrafter, ModelDrafter
from app.engine.model import Model
from app.engine.race import race
from app.engine.windows import ALONE, CYCLES, PROBED, Acceptance, Adaptive, Costs, Cycle, Windows
from app.errors import PairError, PlaygroundError, RequestError
from app.pairs import registry as pairs
from app.pairs.registry import Pair, PairOptions
from app.record.trace import (
    AUTO_K,
    Arm,
    Event,
    ModelCard,
    Request,
    Round,
    RunFinished,
    RunStarted,
    TokenTexts,
    mentioned_ids,
    piece_text,
)

MIN_K, MAX_K = 2, 16
MAX_TOKENS = 4096
MAX_PROMPT_CHARACTERS = 200_000
DRAFTERS = ("draft", "lookup", "draft+lookup")
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
    default_k = 3

    def __init__(
        self, pair: Pair, custom: Acceptor | None = None, listed: Mapping[str, PairOptions] | None = None
    ) -> None:
        """custom: an acceptor loaded from the command line, offered beside the built-in ones. listed: the pairs that
        `switch` may load, by name, `pair` the first of them."""
        self._custom = custom
        self._listed = dict(listed or {})
        self._lock = threading.Lock()
        self._ready = threading.Event()  # a pair is loaded, or none can be
        self.pairs = tuple(self._listed) or (pair.name,)
        self.chosen = self.pairs[0]
        offered = [*ACCEPTORS.values(), *([custom] if custom else [])]
        self.acceptors = tuple(AcceptorCard(a.name, a.description, a.lossless, a.same_text) for a in offered)
        self._switches = 0
        self._take(pair)

    def _take(self, pair: Pair) -> None:
        self._loaded: Pair | None = pair
        self._measured: dict[tuple[object, ...], tuple[Costs, Acceptance]] = {}
        self.pair, self.backend, self.device = pair.name, pair.backend, pair.target.device
        self.target = _card(pair.target)
        self.draft = None if pair.draft is None else _card(pair.draft)
        self.drafters = ("lookup",) if pair.draft is None else DRAFTERS
        self.windows = pair.target.windows
        self.bit_identical = pair.target.bit_identical
        self.has_chat_template = pair.tokenizer.has_chat_template
        self._ready.set()

    @property
    def _pair(self) -> Pair:
        """The loaded pair, waited for while it is switched."""
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
            if "neuron" in (wanted.backend, self.backend):
                raise PairError(
                    "A process keeps the NeuronCores it first took; start the playground with that pair instead, by --pair FILE."
                )
            held = 0 if self._loaded is None else sum(card.memory for card in (self.target, self.draft) if card)
            load = pairs.prepare(wanted, held)
            self._ready.clear()
            self._loaded = None
            gc.collect()  # models and their sequences hold on to each other
            self._switches += 1
            try:
                self._take(load())
                self.chosen = name
            except Exception:
                self._take(pairs.load(before))
                raise
            finally:
                self._ready.set()

    def run(self, request: Request, *, upstream: bool = False) -> Generator[Event, None, None]:
        """The events of a run: RunStarted, then rounds with the texts they need, RunFinished last.

        upstream: the speculative arm runs transformers-neuronx's own loop, as a reference; neuron pairs only. Raises RequestError here, before any event, for a request that cannot work; what fails later ends the run with
        a RunFinished that says so. Waits for the run before it. Closing the generator frees the device.
        """
        switches = self._switches
        prompt_ids = self._checked(request, upstream)
        if upstream and self.backend != "neuron":
            raise RequestError("Only a pair on the neuron backend can run upstream's loop; leave --engine out.")
        if upstream and request.drafter != "draft":
            raise RequestError("Upstream's loop drafts by a draft model only; leave --drafter out.")
        return self._events(request, prompt_ids, upstream, switches)

    def memory(self) -> int:
        """Bytes this process holds."""
        try:
            with open("/proc/self/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except OSError:  # not Linux: the highest so far, in bytes on macOS
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024

    def _checked(self, request: Request, upstream: bool) -> list[int]:
        sampling.validate(request.sampling)
        self._acceptor(request.acceptor)
        if request.arms not in ("both", "target", "speculative"):
            raise RequestError(f"There is no arm {request.arms!r}; choose both, target or speculative.")
        if request.drafter not in DRAFTERS:
            raise RequestError(f"There is no drafter {request.drafter!r}; choose one of {', '.join(self.drafters)}.")
        if request.drafter not in self.drafters and request.arms != "target":
            raise RequestError(
                "This pair has no draft model; choose the drafter lookup, which needs none, or the target arm alone."
            )
        if request.k == AUTO_K:
            if upstream or request.drafter == "lookup":
                raise RequestError("k = auto weighs what a draft model costs; choose a k, or the drafter draft.")
        elif not MIN_K <= request.k <= MAX_K:
            raise RequestError(f"The window k is {request.k}; choose {MIN_K} to {MAX_K}, or auto.")
        elif self.windows is not None and request.k not in self.windows:
            known = ", ".join(map(str, self.windows))
            raise RequestError(f"The window k = {request.k} was not compiled; choose one of {known}.")
        if not 1 <= request.max_tokens <= MAX_TOKENS:
            raise RequestError(f"max_tokens is {request.max_tokens}; choose 1 to {MAX_TOKENS}.")
        return self._prompt_ids(request)

    def _acceptor(self, name: str) -> Acceptor:
        return self._custom if self._custom is not None and name == self._custom.name else find(name)

    def _prompt_ids(self, request: Request) -> list[int]:
        messages = list(request.messages)
        if not messages:
            if not request.prompt.strip():
                raise RequestError("The prompt is empty; type something for the model to answer.")
            system = [{"role": "system", "content": request.system}] if request.system.strip() else []
            messages = [*system, {"role": "user", "content": request.prompt}]
        if sum(len(message.get("content", "")) for message in messages) > MAX_PROMPT_CHARACTERS:
            raise RequestError(f"The prompt is longer than {MAX_PROMPT_CHARACTERS} characters; shorten it.")
        tokenizer = self._pair.tokenizer
        if request.chat_template and tokenizer.has_chat_template:
            ids = tokenizer.encode_chat(messages)
        else:
            ids = tokenizer.encode("\n\n".join(message["content"] for message in messages))
        limit = self._n_positions(request)
        if not ids:
            raise RequestError("The prompt is empty; type something for the model to answer.")
        if len(ids) >= limit:
            raise RequestError(
                f"The prompt is {len(ids)} tokens long and the context holds {limit}; shorten it so that there is room "
                "for an answer."
            )
        return ids

    def _n_positions(self, request: Request) -> int:
        """The longest context of the run: both arms end at the same length, so the shorter model decides."""
        target, draft = self._pair.target, self._pair.draft
        drafts = draft is not None and request.arms != "target" and request.drafter != "lookup"
        return min(target.n_positions, draft.n_positions) if drafts and draft else target.n_positions

    def _events(
        self, request: Request, prompt_ids: list[int], upstream: bool, switches: int
    ) -> Generator[Event, None, None]:
        with self._lock:
            if switches != self._switches:  # another pair came while this run waited: its ids are other ones
                prompt_ids = self._checked(request, upstream)
            acceptor = self._acceptor(request.acceptor)
            yield RunStarted(
                request,
                self.pair,
                self.backend,
                self.device,
                self.target,
                self.draft,
                len(prompt_ids),
                acceptor.lossless,
                self.bit_identical,
                datetime.now(timezone.utc).isoformat(timespec="seconds"),
            )
            known: set[int] = set()
            reasons = {}
            try:
                windows: int | Windows = request.k
                if request.k == AUTO_K and request.arms != "target":
                    costs, seen = self._measure(request, prompt_ids, acceptor)
                    windows = Adaptive(costs, self.auto_windows, seen)
                arms = {arm: self._arm(arm, request, prompt_ids, acceptor, windows) for arm in _arms(request)}
                if upstream and "speculative" in arms:
                    arms["speculative"] = self._upstream(request, prompt_ids)
                one_at_a_time = self._pair.target.max_sequences == 1
                with closing(race(arms, one_at_a_time=one_at_a_time)) as rounds:
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

    @property
    def auto_windows(self) -> tuple[int, ...]:
        """The windows k = auto chooses among, beside not drafting at all."""
        return tuple(k for k in self.windows or range(MIN_K, MAX_K + 1) if k >= MIN_K)

    def _measure(self, request: Request, prompt_ids: list[int], acceptor: Acceptor) -> tuple[Costs, Acceptance]:
        """What windows cost, host time and all, and how often drafts were kept meanwhile: measured once for each kind of
        warp and acceptor, in about a second, and kept, so that runs of one seed choose alike."""
        warp = request.sampling
        kind = (acceptor.name, warp.temperature > 0, warp.top_p < 1, warp.top_k > 0)
        if kind not in self._measured:
            cycle = Cycle([1] * ALONE + [k for k in PROBED if k in self.auto_windows])
            count = CYCLES * len(cycle.ks)
            longer = dataclasses.replace(request, drafter="draft", max_tokens=CYCLES * sum(cycle.ks) + 1)
            with closing(self._arm("speculative", longer, prompt_ids, acceptor, cycle, frozenset())) as rounds:
                costs = Costs.measured(list(itertools.islice(rounds, count + 1)))
            self._measured[kind] = costs, cycle.seen
        return self._measured[kind]

    def _arm(
        self,
        arm: Arm,
        request: Request,
        prompt_ids: list[int],
        acceptor: Acceptor,
        windows: int | Windows,
        stop_ids: frozenset[int] | None = None,
    ) -> Generator[Round, None, None]:
        """The rounds of one arm, over sequences of its own that are given back at its end. stop_ids: instead of the
        pair's own."""
        pair = self._pair
        stop_ids = pair.tokenizer.stop_ids if stop_ids is None else stop_ids
        limits = Limits(request.max_tokens, self._n_positions(request), stop_ids)
        drafter = None
        target = pair.target.new_sequence(_rows(arm, windows, self.auto_windows))
        try:
            if arm == "speculative":
                drafter = self._drafter(request, stop_ids)
            yield from decode(
                target,
                drafter,
                prompt_ids,
                k=windows,
                sampling=request.sampling,
                acceptor=acceptor,
                limits=limits,
                target_name=pair.target.name,
            )
        finally:
            target.close()
            if drafter is not None:
                drafter.close()

    def _drafter(self, request: Request, stop_ids: frozenset[int]) -> Drafter:
        """What the request asks for, over a sequence of its own, which its `close` gives back."""
        target, draft = self._pair.target, self._pair.draft
        lookup = LookupDrafter(target.vocab_size, stop_ids)
        if request.drafter == "lookup":
            return lookup
        assert draft is not None
        model = ModelDrafter(
            draft.new_sequence((1, 2)),  # after a window kept to its end it reads two tokens
            name=draft.name,
            vocab_size=draft.vocab_size,
            sampling=request.sampling,
            stop_ids=stop_ids,
            kept_ids=draft.kept_ids,
        )
        return model if request.drafter == "draft" else EitherDrafter(model, lookup)

    def _upstream(self, request: Request, prompt_ids: list[int]) -> Generator[Round, None, None]:
        from app.backends.neuron.model import NeuronModel, run_upstream

        target, draft = self._pair.target, self._pair.draft
        assert isinstance(target, NeuronModel)
        assert isinstance(draft, NeuronModel)
        yield from run_upstream(
            target,
            draft,
            prompt_ids,
            max_tokens=request.max_tokens,
            k=request.k,
            stop_ids=self._pair.tokenizer.stop_ids,
            seed=request.sampling.seed,
            acceptor=getattr(self._custom, "declared", None),
        )

    def _texts(self, ids: set[int]) -> TokenTexts:
        tokenizer = self._pair.tokenizer
        ordered = sorted(ids)
        special = tuple(i for i in ordered if tokenizer.is_special(i))
        return TokenTexts({i: piece_text(tokenizer.piece(i)) for i in ordered}, special)


def _arms(request: Request) -> tuple[Arm, ...]:
    return ("target", "speculative") if request.arms == "both" else (request.arms,)


def _rows(arm: Arm, windows: int | Windows, auto_windows: tuple[int, ...]) -> tuple[int, ...]:
    """The rows an arm's target passes will have at most."""
    if arm == "target":
        return (1,)
    return (windows,) if isinstance(windows, int) else (1, *auto_windows)


def _card(model: Model) -> ModelCard:
    return ModelCard(model.name, model.num_parameters, model.dtype, model.memory(), model.vocab_size, model.n_positions)
