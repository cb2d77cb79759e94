"""What a pair on Neuron is compiled for."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_WINDOWS = (2, 3, 4, 5, 7, 8)
DEFAULT_N_POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a compiled program depends on, beside the checkpoint's shape and the library."""

    dtype: str
    tp_degree: int
    n_positions: int
    prefill: int
    windows: tuple[int, ...]
