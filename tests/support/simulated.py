"""Toy pairs on a clock of their own: the real loop, with costs that are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Generator
from collections.abc import Sequence as Ids
from typing import Any

from app.backends.toy import ToyModel, toy_pair
from app.engine.acceptance import find
from app.engine.decode import Limits, decode
from app.engine.drafting import ModelDrafter
from app.engine.model import KVCache, Logits
from app.engine.windows import Fixed, Windows
from app.record.trace import Arm, Event, ModelCard, Request, Round, RunFinished, RunStarted


class TimedSequence:
    """`sequence`, whose passes move `clock` on by `cost(rows scored)` seconds."""

    def __init__(self, sequence: KVCache, clock: Clock, cost: Callable[[int], float]) -> None:
        self._sequence, self._clock, self._cost = sequence, clock, cost

    @property
    def length(self) -> int:
        return self._sequence.length

    def forward(self, token_ids: Ids[int], num_logits: int) -> Logits:
        self._clock.now += self._cost(len(token_ids))
        return self._sequence.forward(token_ids, num_logits)

    def rollback(self, length: int) -> None:
        self._sequence.rollback(length)

    def close(self) -> None:
        self._sequence.close()


class Clock:
    """Seconds that pass only when a model works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedSession:
    """A session over toys: each of the target's passes takes `verify(rows)` seconds, each of the draft's `draft`."""

    windows: tuple[int, ...] | None = None

    def __init__(
        self,
        verify: Callable[[int], float] = lambda rows: 0.010,
        draft: float = 0.001,
        *,
        n_positions: int = 4096,
        **toy: Any,
    ) -> None:
        self._verify, self._draft_seconds, self._n_positions = verify, draft, n_positions
        self._target, self._draft, self._tokenizer = toy_pair(n_positions=n_positions, **toy)

    def run(self, request: Request) -> Generator[Event, None, None]:
        target, draft = (
            ModelCard(m.name, m.num_parameters, m.dtype, 0, m.vocab_size, m.n_positions)
            for m in (self._target, self._draft)
        )
        yield RunStarted(request, "toys", "toy", "table", target, draft, 1, True, True, "")
        arms: tuple[Arm, ...] = ("target", "speculative") if request.arms == "both" else (request.arms,)
        for arm in arms:
            yield from self.arm(arm, request)
        yield RunFinished("length")

    def arm(self, arm: Arm, request: Request, k: int | Windows | None = None) -> Generator[Round, None, None]:
        """The rounds of one arm; k: instead of the request's."""
        window = request.k if k is None else k
        assert not isinstance(window, str)
        clock = Clock()
        stop_ids = self._tokenizer.stop_ids
        target = self._timed(self._target, clock, self._verify)
        drafter = None
        if arm == "speculative":
            drafter = ModelDrafter(
                self._timed(self._draft, clock, lambda rows: self._draft_seconds),
                name="draft",
                vocab_size=self._draft.vocab_size,
                sampling=request.sampling,
                stop_ids=stop_ids,
                clock=clock,
            )
        yield from decode(
            target,
            drafter,
            self._tokenizer.encode(request.prompt),
            windows=Fixed(window) if isinstance(window, int) else window,
            sampling=request.sampling,
            acceptor=find(request.acceptor),
            limits=Limits(request.max_tokens, self._n_positions, stop_ids),
            target_name="target",
            clock=clock,
        )

    @staticmethod
    def _timed(model: ToyModel, clock: Clock, cost: Callable[[int], float]) -> TimedSequence:
        return TimedSequence(model.new_sequence(), clock, cost)
