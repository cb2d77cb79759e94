"""Whether a row's logits depend on the window it was scored in: found out on the device at hand, since libraries choose
their kernels by the number of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.backends.torch.model import TorchModel, TorchSequence

PROMPT, WINDOW = 48, 16
"""Random tokens read before, and scored in every way."""
ROWS = (1, 2, 3, 5, 8, 16)
"""Real rows of the windows that are tried, each at every place it has among the WINDOW tokens, up to TURNS of them."""
TURNS = 4


@dataclass(frozen=True, slots=True)
class Found:
    """difference: the largest, among logits of one row in windows of several sizes; 0 where all bits agree. widths: the
    programs it holds for."""

    widths: tuple[int, ...]
    difference: float


def settle(model: TorchModel) -> Found:
    """Choose the widest set of program widths whose bits agree, and note in the model what was found.

    Where widths differ among each other, every pass takes the widest, its unused rows padded: on an accelerator rows
    cost next to nothing. On the processor they do, so there nothing is chosen, only found out.
    """
    choices = [model.widths[first:] for first in range(len(model.widths))] or [()]
    for widths in choices:
        model.widths = widths
        finding = Found(widths, difference(model))
        if finding.difference == 0:
            break
    model.bit_identical = finding.difference == 0
    model.row_difference = finding.difference
    return finding


def difference(model: TorchModel, window: int = WINDOW) -> float:
    """The largest difference between logits of the same rows in windows of ROWS and in windows of `window`."""
    prompt = min(PROMPT, model.n_positions - WINDOW)
    if prompt < 1:
        return 0.0
    ids = np.random.default_rng(0).integers(0, model.vocab_size, prompt + WINDOW).tolist()
    recorded, model.graphs = model.graphs, False  # the kernels are the same
    sequence = TorchSequence(model)
    try:
        sequence.forward(ids[:prompt], 1)
        parts = [_scored(sequence, ids, prompt + begin, window) for begin in range(0, WINDOW, window)]
        expected = np.concatenate(parts)
        return max(_against(sequence, ids, prompt, rows, expected) for rows in ROWS if rows <= window)
    finally:
        model.graphs = recorded


def _against(sequence: TorchSequence, ids: list[int], prompt: int, rows: int, expected: NDArray[np.float32]) -> float:
    worst = 0.0
    for begin in range(0, min(WINDOW - rows + 1, TURNS * rows), rows):
        sequence.rollback(prompt + begin)
        logits = _scored(sequence, ids, prompt + begin, rows)
        worst = max(worst, float(np.abs(logits - expected[begin : begin + rows]).max()))
    return worst


def _scored(sequence: TorchSequence, ids: list[int], begin: int, rows: int) -> NDArray[np.float32]:
    return sequence.forward(ids[begin : begin + rows], rows).copy()
