"""Scored rows that stay on their device until somebody looks at them; see `app.engine.scored.Rows`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.backends.torch import warp
from app.engine.scored import DraftProbs, LazyRow
from app.record.trace import Sampling

Tensor = Any
Probs = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A draw made already, from the last row by `coin`. few: what `warp.step` gave for it; probs [V]: the row (None: it
    is one-hot)."""

    coin: float
    few: list[float]
    probs: Tensor


def to_host(values: Tensor) -> NDArray[Any]:
    """A copy in main memory, waited for; page-locked on the way from CUDA, where a plain one takes several times as
    long."""
    if values.device.type == "cuda":
        held = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        held.copy_(values, non_blocking=True)
        torch.cuda.current_stream(values.device).synchronize()
    else:
        held = values.cpu() if values.device.type != "cpu" else values.clone()
    host: NDArray[Any] = held.numpy()
    return host


class DeviceRows:
    """Rows [n, V]: probabilities after the warp, and the logits behind them. Good until the sequence's next pass, and
    longer where a draw was made: then both are copies."""

    ndim = 2

    def __init__(
        self,
        logits: Tensor,
        sampling: Sampling,
        unusable: Callable[[int], Exception],
        values: Tensor,
        *,
        following: Tensor | None = None,
        drawn: Drawn | None = None,
        places: Tensor | None = None,
    ) -> None:
        """logits: float32 [n, V]. unusable: what to raise for a row that is not finite. values: `warp.scalars` on the
        device. following: int64 [n - 1], the tokens that stand behind the first rows, whose probabilities come over at
        once. places: int64 [V], the ids of a draft that scores not all."""
        self.shape: tuple[int, int] = (logits.shape[0], logits.shape[1])
        self.lasting = drawn is not None
        self._logits, self._unusable, self._drawn, self._places = logits, unusable, drawn, places
        self._known: list[Probs | None] = [None] * len(logits)
        self._chances: list[tuple[int, float]] = []
        kind = warp.Kind.of(sampling)
        self._best: list[int] | None = None
        self._probs: Tensor = None
        if drawn is not None:
            self._probs = None if drawn.probs is None else drawn.probs[None]
            self._finite = [bool(drawn.few[warp.FINITE])]
            if kind.greedy:
                self._best = [int(drawn.few[warp.TOKEN])]
            return
        self._probs = None if kind.greedy else warp.warp(logits, kind, values)
        finite = logits.amax(-1).isfinite()
        if kind.greedy:
            few = torch.stack((finite.to(torch.int64), logits.argmax(-1))).tolist()
            self._finite, self._best = [bool(each) for each in few[0]], few[1]
            return
        few = finite.to(values.dtype)
        if following is not None:
            chances = self._probs[:-1].gather(1, following[:, None])[:, 0]
            few = torch.cat((few, chances.to(values.dtype), following.to(values.dtype)))
        numbers = few.tolist()
        n = len(logits)
        self._finite = [bool(each) for each in numbers[:n]]
        if following is not None:
            self._chances = [
                (int(token), each) for each, token in zip(numbers[n : 2 * n - 1], numbers[2 * n - 1 :], strict=True)
            ]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> Probs:
        """Row number `row`, from 0, in main memory. Raises `unusable(row)`."""
        probs = self._known[row]
        if probs is None:
            self._check(row)
            if self._best is not None:
                probs = np.zeros(self.shape[1], np.float32)
                probs[self._best[row]] = 1
            else:
                probs = to_host(self._probs[row])
            self._known[row] = probs
        return probs

    def __iter__(self) -> Iterator[Probs]:
        return (self[row] for row in range(len(self)))

    def all(self) -> Probs:
        """Every row, float32 [n, V]. Raises `unusable` of one."""
        return np.stack(list(self))

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits behind the rows, float32 [n, V], in main memory."""
        return to_host(self._logits)

    def chance(self, row: int, token: int) -> Probs:
        """The probability of one token, [1]; 0 beyond the vocabulary. Raises `unusable(row)`."""
        self._check(row)
        if self._best is not None:
            value = float(self._best[row] == token)
        elif self._drawn is not None and int(self._drawn.few[warp.TOKEN]) == token:
            value = self._drawn.few[warp.CHANCE]
        elif row < len(self._chances) and self._chances[row][0] == token:
            value = self._chances[row][1]
        else:
            value = float(self[row][token]) if token < self.shape[1] else 0.0
        return np.array([value], np.float32)

    def draw(self, row: int, u: float) -> int:
        """The id at u of the row's cumulative distribution. Raises `unusable(row)`."""
        self._check(row)
        if self._drawn is not None and self._drawn.coin == u:
            return int(self._drawn.few[warp.TOKEN])
        if self._best is not None:
            return self._best[row]
        coin = torch.tensor([u], dtype=warp.exact(self._probs.device), device=self._probs.device)
        return int(warp.draw(self._probs[row], coin))

    def draw_rest(self, row: int, draft: DraftProbs, u: float) -> tuple[int, LazyRow] | None:
        """See `app.engine.scored.draw_rest`."""
        if self._best is not None:
            return self._best[row], LazyRow(lambda: self[row])
        other = None if isinstance(draft, np.ndarray) else draft.held(row)
        if not isinstance(other, DeviceRows) or other._probs is None:
            return None
        device = self._probs.device
        coin = torch.tensor([u], dtype=warp.exact(device), device=device)
        theirs, places = (None if each is None else each.to(device) for each in (other._probs[0], other._places))
        with torch.inference_mode():
            token, rest = warp.draw_rest(self._probs[row], theirs, places, coin)
        return int(token), LazyRow(lambda: _normalised(to_host(rest)))

    def confidence(self, row: int) -> float:
        """The probability of the likeliest token in the row's plain softmax."""
        if self._drawn is not None:
            return self._drawn.few[warp.CONFIDENCE]
        return float(warp.confidence(self._logits[row : row + 1]))

    def _check(self, row: int) -> None:
        if not self._finite[row]:
            raise self._unusable(row)


def _normalised(rest: Probs) -> Probs:
    probs: Probs = rest / rest.sum()
    return probs
