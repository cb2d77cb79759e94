"""What a draft that sees its target reads beside the tokens: final states, the target's where it was, else its own."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from app.engine.model import Model, States


class Sight(Protocol):
    """States [n, width] as rows [n, 2 * width] of a draft's input `before`: the target's in the first half, its own in
    the second, the other half 0. Before the first token there is no state, which is a row of zeros."""

    def follow(self, states: States) -> None:
        """The target's states of the next positions of the context."""
        ...

    def theirs(self, count: int) -> States:
        """For the next `count` tokens of the context, which the draft reads for good."""
        ...

    def own(self, states: States) -> States:
        """For a token behind one whose own state is the last of `states`."""
        ...


class HostSight:
    """Of a backend that hands its states over, as float32 arrays."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._behind: NDArray[np.float32] = np.zeros((1, width), np.float32)

    def follow(self, states: NDArray[np.float32]) -> None:
        self._behind = np.concatenate([self._behind, states])

    def theirs(self, count: int) -> NDArray[np.float32]:
        assert len(self._behind) >= count, (len(self._behind), count)
        rows = np.zeros((count, 2 * self._width), np.float32)
        rows[:, : self._width], self._behind = self._behind[:count], self._behind[count:]
        return rows

    def own(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        row = np.zeros((1, 2 * self._width), np.float32)
        row[0, self._width :] = states[-1]
        return row


def sight_of(draft: Model, width: int) -> Sight:
    """What a draft that reads states of this width reads them by: the backend's own, where it keeps them elsewhere."""
    own = getattr(draft, "new_sight", None)
    return HostSight(width) if own is None else cast(Sight, own(width))
