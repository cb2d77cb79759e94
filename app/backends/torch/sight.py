"""What a draft that sees its target reads beside the tokens, on the device where both are; see `app.engine.sight`."""

from __future__ import annotations

from typing import Any

import torch

Tensor = Any


class DeviceSight:
    """As `app.engine.sight.HostSight`, of tensors that stay on the draft's device."""

    def __init__(self, width: int, device: Any, dtype: Any) -> None:
        self._width = width
        self._behind = torch.zeros(1, width, dtype=dtype, device=device)

    def follow(self, states: Tensor) -> None:
        # a copy: the target's next pass writes where they lie
        self._behind = torch.cat([self._behind, states.to(self._behind.device)])

    def theirs(self, count: int) -> Tensor:
        assert len(self._behind) >= count, (len(self._behind), count)
        rows = self._behind.new_zeros(count, 2 * self._width)
        rows[:, : self._width] = self._behind[:count]
        self._behind = self._behind[count:]
        return rows

    def own(self, states: Tensor) -> Tensor:
        row = self._behind.new_zeros(1, 2 * self._width)
        row[0, self._width :] = states[-1]
        return row
