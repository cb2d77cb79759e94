"""Weights in 8 bits: groups of `GROUP` in a row share a scale. The text of the exact weights, at the fast kernels' pace.

What was stored so and read again is quantised to the same values and scales: a draft packed in 8 bits loses nothing on
the engine's default precision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUP = 64


def quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(values [rows, groups, size], scales [rows, groups, 1]) of a matrix [rows, columns]; a row that does not divide
    into groups is one."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, GROUP if columns % GROUP == 0 else columns)
    scales = (np.abs(groups).max(2, keepdims=True) / 127).astype(np.float16)
    # a group of zeros (or of values below half precision's reach) keeps scale 1: 0 * 1 is still 0
    scales[scales == 0] = 1
    return np.clip(np.round(groups / scales.astype(np.float32)), -127, 127).astype(np.int8), scales


def exact(values: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """The matrix [rows, columns] that values [rows, columns] in groups with scales [rows, groups] stand for."""
    rows, columns = values.shape
    groups = values.reshape(rows, scales.shape[1], -1).astype(np.float32)
    return (groups * scales.astype(np.float32)[:, :, None]).reshape(rows, columns)
