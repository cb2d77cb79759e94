"""What a pair on Neuron is compiled for."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_WINDOWS = (2, 3, 4, 5, 7, 8)
DEFAULT_N_POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a compiled program depends on, beside the checkpoint's shape and the library's version.

    library: its name. prefill: tokens of the one prefill program. compiled: the sizes of the target's window programs,
    ascending; none for a draft.
    """

    library: str
    dtype: str
    tp_degree: int
    n_positions: int
    prefill: int
    compiled: tuple[int, ...] = ()
