"""Whether a row's logits depend on the window it was scored in, found out at load where an engine cannot promise it."""

from __future__ import annotations

import numpy as np

from app.engine.model import Model

_ROWS, _PROMPT = (1, 2, 3, 5), 16


def difference(model: Model) -> float:
    """The largest difference between logits of the same rows in windows of several sizes; 0 where all bits agree."""
    widest = _ROWS[-1]
    prompt = min(_PROMPT, model.n_positions - widest)
    if prompt < 1:
        return 0.0
    ids = np.random.default_rng(0).integers(0, model.vocab_size, prompt + widest).tolist()
    sequence = model.new_sequence()
    sequence.forward(ids[:prompt], 1)
    together = sequence.forward(ids[prompt:], widest).copy()
    worst = 0.0
    for rows in _ROWS[:-1]:
        sequence.rollback(prompt)
        logits = sequence.forward(ids[prompt : prompt + rows], rows)
        worst = max(worst, float(np.abs(logits - together[:rows]).max()))
    sequence.close()
    return worst
