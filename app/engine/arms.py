"""The arms of a run over one pair: each with KV caches of its own, its drafter, and what windows cost where k is
auto."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Iterator
from contextlib import closing

from app.engine.acceptance import Acceptor
from app.engine.decode import Limits, decode
from app.engine.drafting import Drafter, EitherDrafter, LookupDrafter, ModelDrafter
from app.engine.model import Model
from app.engine.pair import Pair
from app.engine.requests import auto_windows, n_positions
from app.engine.sight import sight_of
from app.engine.windows import CYCLES, Acceptance, Adaptive, Costs, Cycle, Fixed, Windows, probed
from app.record.limits import AUTO
from app.record.trace import Arm, Request, Round


class Arms:
    """Makes the arms of runs over one pair, and keeps what was measured for k = auto."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._measured: dict[tuple[object, ...], tuple[Costs, Acceptance]] = {}

    def of(
        self, request: Request, prompt_ids: list[int], acceptor: Acceptor
    ) -> dict[Arm, Generator[Round, None, None]]:
        """The arms the request asks for. Raises what measuring for k = auto may raise."""
        names: tuple[Arm, ...] = ("target", "speculative") if request.arms == "both" else (request.arms,)
        return {name: self._arm(name, request, prompt_ids, acceptor) for name in names}

    def prepare(self) -> Iterator[None]:
        """Make what a first run of k = auto would wait for, where the engine makes things for windows, a step at a
        time."""
        pair = self._pair
        rows = (1, *auto_windows(pair))
        models = [(pair.target, rows)]
        if pair.draft is not None:
            models.append((pair.draft, _draft_rows(pair.draft, rows)))
        for model, widths in models:
            prepare = getattr(model, "prepare", None)
            if prepare is not None:
                yield from prepare(widths)

    def _arm(
        self, arm: Arm, request: Request, prompt_ids: list[int], acceptor: Acceptor
    ) -> Generator[Round, None, None]:
        stop_ids = self._pair.tokenizer.stop_ids
        if arm == "target":
            return self._rounds(request, prompt_ids, acceptor, Fixed(1), (1,), stop_ids, drafts=False)
        if request.k != AUTO:
            return self._rounds(request, prompt_ids, acceptor, Fixed(request.k), (request.k,), stop_ids)
        offered = auto_windows(self._pair)
        costs, seen = self._costs(request, prompt_ids, acceptor)
        windows = Adaptive(costs, offered, seen)
        return self._rounds(request, prompt_ids, acceptor, windows, (1, *offered), stop_ids)

    def _costs(self, request: Request, prompt_ids: list[int], acceptor: Acceptor) -> tuple[Costs, Acceptance]:
        """What windows cost, host time and all, and how often drafts were kept meanwhile: measured once for each kind
        of warp and acceptor, in about a second, and kept, so that runs of one seed choose alike."""
        warp = request.sampling
        kind = (acceptor.name, warp.temperature > 0, warp.top_p < 1, warp.top_k > 0)
        if kind not in self._measured:
            offered = auto_windows(self._pair)
            cycle = Cycle(probed(offered))
            count = CYCLES * len(cycle.ks)
            longer = dataclasses.replace(request, drafter="draft", max_tokens=CYCLES * sum(cycle.ks) + 1)
            arm = self._rounds(longer, prompt_ids, acceptor, cycle, (1, *offered), frozenset())
            with closing(arm) as rounds:
                costs = Costs.measured(list(itertools.islice(rounds, count + 1)))
            self._measured[kind] = costs, cycle.seen
        return self._measured[kind]

    def _rounds(
        self,
        request: Request,
        prompt_ids: list[int],
        acceptor: Acceptor,
        windows: Windows,
        rows: tuple[int, ...],
        stop_ids: frozenset[int],
        drafts: bool = True,
    ) -> Generator[Round, None, None]:
        """The rounds of one arm, over caches of its own that are given back at its end. rows: those its target passes
        will have at most."""
        pair = self._pair
        drafter = None
        target = pair.target.new_sequence(rows)
        try:
            if drafts:
                drafter = self._drafter(request, stop_ids, rows)
            yield from decode(
                target,
                drafter,
                prompt_ids,
                windows=windows,
                sampling=request.sampling,
                acceptor=acceptor,
                limits=Limits(request.max_tokens, n_positions(pair, request), stop_ids),
                target_name=pair.target.name,
            )
        finally:
            target.close()
            if drafter is not None:
                drafter.close()

    def _drafter(self, request: Request, stop_ids: frozenset[int], rows: tuple[int, ...]) -> Drafter:
        """What the request asks for, over a cache of its own, which its `close` gives back."""
        target, draft = self._pair.target, self._pair.draft
        lookup = LookupDrafter(target.vocab_size, stop_ids)
        if request.drafter == "lookup":
            return lookup
        assert draft is not None
        sight = None
        if draft.reads_states:
            assert target.state_width is not None, (
                "a target that gives no states was loaded for a draft that reads them"
            )
            sight = sight_of(draft, target.state_width)
        model = ModelDrafter(
            draft.new_sequence(_draft_rows(draft, rows)),
            name=draft.name,
            vocab_size=draft.vocab_size,
            sampling=request.sampling,
            stop_ids=stop_ids,
            kept_ids=draft.kept_ids,
            sight=sight,
        )
        return model if request.drafter == "draft" else EitherDrafter(model, lookup)


def _draft_rows(draft: Model, rows: tuple[int, ...]) -> tuple[int, ...]:
    """Rows a draft reads at most: before a first draft, after a window kept to its end, two tokens; with the target's
    states the window."""
    return (1, *rows) if draft.reads_states else (1, 2)
