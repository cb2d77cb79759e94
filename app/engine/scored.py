"""Scored rows: what a pass gives the loop. A backend whose logits lie on a device of their own may leave them there
(`score` of its KV cache): to acceptors they are rows that answer when indexed, whoever made them. What most rounds ask
of a row, one token's probability and a draw, is asked for by name, so that no row need come over for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from app.engine.model import KVCache, Logits, States, StatesCache
from app.engine.noise import draw
from app.engine.sampling import Probs, WarpedRows, confidence
from app.record.trace import Sampling

Unusable = Callable[[int], Exception]
"""What to raise for a row, by its number, whose logits are not finite."""


class Rows(Protocol):
    """Warped rows [n, V] and the logits behind them, until the next pass over the same cache."""

    ndim: int
    shape: tuple[int, int]

    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> Probs:
        """Row number `row`, from 0, float32 [V]. Raises what `Unusable` says."""
        ...

    def __iter__(self) -> Iterator[Probs]: ...
    def all(self) -> Probs:
        """Every row, float32 [n, V]."""
        ...

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 [n, V]."""
        ...

    @property
    def lasting(self) -> bool:
        """Whether later passes leave them as they are."""
        ...

    def chance(self, row: int, token: int) -> Probs:
        """The probability of one token, [1]; 0 beyond the vocabulary."""
        ...

    def draw(self, row: int, u: float) -> int:
        """The id at u (in [0, 1)) of the row's cumulative distribution; see `noise.draw`."""
        ...

    def confidence(self, row: int) -> float:
        """The probability of the likeliest token in the plain softmax of the row's logits."""
        ...


class LazyRow:
    """A row [V] made when it is looked at, by whoever looks inside a round afterwards."""

    def __init__(self, make: Callable[[], Probs]) -> None:
        self._make = make

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Probs:
        return np.asarray(self._make(), dtype)


class HostRows(WarpedRows):
    """Rows of a backend that hands its logits over."""

    lasting = False

    @property
    def logits(self) -> NDArray[np.float32]:
        return self._logits

    def settle(self) -> None:
        """Work out what the logits are needed for: the next pass writes where they lie."""
        for row in range(len(self)):
            _ = self.best(row) if self.greedy else self[row]

    def chance(self, row: int, token: int) -> Probs:
        if self.greedy:
            return np.array([self.best(row) == token], np.float32)
        return at(self[row], token)

    def draw(self, row: int, u: float) -> int:
        return self.best(row) if self.greedy else draw(self[row], u)

    def draw_rest(self, row: int, draft: DraftProbs, u: float) -> tuple[int, LazyRow] | None:
        """See `draw_rest`. Without temperature all there is beyond the draft is the likeliest token; else few ids of
        most rows can be said, and whole rows would be swept for nothing."""
        if self.greedy:
            return self.best(row), LazyRow(lambda: self[row])
        p = self[row]
        ids = np.flatnonzero(p)
        if 2 * ids.size > p.size:
            return None
        q = draft[row]
        known = ids[: np.searchsorted(ids, q.size)]
        rest = p[ids]
        rest[: known.size] -= q[known]
        np.maximum(rest, 0, out=rest)
        over = rest.sum()
        if not over > 0:
            return None
        rest /= over
        return int(ids[draw(rest, u)]), LazyRow(lambda: _spread(rest, ids, p.size))

    def confidence(self, row: int) -> float:
        return confidence(self._logits[row])


def _spread(values: Probs, ids: NDArray[np.intp], size: int) -> Probs:
    row = np.zeros(size, np.float32)
    row[ids] = values
    return row


def score(
    cache: KVCache,
    token_ids: Sequence[int],
    num_logits: int,
    sampling: Sampling,
    unusable: Unusable,
    coin: float | None = None,
    before: States | None = None,
) -> Rows:
    """`cache.forward` with its rows warped: where the logits are, if the cache can; ready when this returns.

    coin: the last row will be drawn from by it, so that the draw can be made in the same go. before: see `forward`.
    """
    own = getattr(cache, "score", None)
    if own is None:
        return HostRows(forward(cache, token_ids, num_logits, before), sampling, unusable)
    beside = () if before is None else (before,)
    return cast(Rows, own(token_ids, num_logits, sampling, unusable, coin, *beside))


def forward(cache: KVCache, token_ids: Sequence[int], num_logits: int, before: States | None) -> Logits:
    """`cache.forward`, with the states that a model reads beside the tokens (None: it reads none)."""
    if before is None:
        return cache.forward(token_ids, num_logits)
    return cast(StatesCache, cache).forward(token_ids, num_logits, before)


def at(probs: Probs, token: int) -> Probs:
    """The probability of one token, [1]; 0 beyond the vocabulary."""
    return probs[token : token + 1] if token < probs.size else np.zeros(1, probs.dtype)


class DraftRows:
    """The rows a round's tokens were drafted from, [g, V] whatever ids the draft scores; each in main memory when asked
    for."""

    ndim = 2

    def __init__(self, buffer: Probs, kept_ids: NDArray[np.int64] | None) -> None:
        """buffer: float32 [at least g, V], of zeros outside kept_ids; in use until the next round. kept_ids: the ids
        the rows are of, None: of all."""
        self._buffer, self._kept = buffer, slice(None) if kept_ids is None else kept_ids
        self._kept_ids = kept_ids
        self._rows: list[Rows] = []
        self._logits: list[NDArray[np.float32] | None] = []
        self._known: list[bool] = []

    def add(self, rows: Rows) -> None:
        """One more: the only row of `rows`."""
        self._rows.append(rows)
        self._known.append(False)
        self._logits.append(None)
        if not rows.lasting:
            self._logits[-1] = rows.logits[0].copy()
            if isinstance(rows, HostRows):
                rows.settle()
            else:
                _ = self[len(self) - 1]

    def held(self, offset: int) -> Rows:
        """The row where it was made, of the ids the draft scores."""
        return self._rows[offset]

    def draw(self, offset: int, u: float) -> int:
        """The id at u of a row's cumulative distribution."""
        rows = self._rows[offset]
        if self._known[offset]:
            return draw(self[offset], u)
        place = rows.draw(0, u)
        return place if self._kept_ids is None else int(self._kept_ids[place])

    def chance(self, offset: int, token: int) -> Probs:
        """The probability of one token, [1]; 0 beyond the vocabulary."""
        if self._known[offset]:
            return at(self[offset], token)
        if self._kept_ids is None:
            return self._rows[offset].chance(0, token)
        place = int(np.searchsorted(self._kept_ids, token))
        kept = place < len(self._kept_ids) and self._kept_ids[place] == token
        return self._rows[offset].chance(0, place) if kept else np.zeros(1, np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._buffer.shape[1]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, offset: int) -> Probs:
        if not self._known[offset]:
            self._buffer[offset, self._kept] = self._rows[offset][0]
            self._known[offset] = True
        return cast(Probs, self._buffer[offset])

    def __iter__(self) -> Iterator[Probs]:
        return (self[offset] for offset in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Probs:
        for _ in self:
            pass
        values = self._buffer[: len(self)]
        return np.array(values, dtype) if copy or dtype is not None else values

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 [g, n] of the ids the draft scores."""
        return np.stack(
            [rows.logits[0] if held is None else held for rows, held in zip(self._rows, self._logits, strict=True)]
        )


TargetProbs = Probs | Rows
DraftProbs = Probs | DraftRows
"""Arrays, or rows that answer when indexed."""


def chance(probs: TargetProbs | DraftProbs, row: int, token: int) -> Probs:
    """The probability of one token in a row, [1]."""
    return at(probs[row], token) if isinstance(probs, np.ndarray) else probs.chance(row, token)


def draw_rest(target: TargetProbs, draft: DraftProbs, row: int, u: float) -> tuple[int, Probs] | None:
    """The id at u of the cumulative distribution of max(p - q, 0), for a row whose draft was refused, and that
    distribution; None where it takes whole rows in main memory."""
    own = getattr(target, "draw_rest", None)
    return None if own is None else cast("tuple[int, Probs] | None", own(row, draft, u))


def drawn(probs: TargetProbs, row: int, u: float) -> int:
    """The id at u of a row's cumulative distribution."""
    return draw(probs[row], u) if isinstance(probs, np.ndarray) else probs.draw(row, u)
