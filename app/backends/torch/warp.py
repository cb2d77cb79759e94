"""The warp and the draw where the logits are: what `app.engine.sampling` does in NumPy, in torch, by the host's coin.

A row's logits are some hundred thousand numbers, and a round has nine such rows: they stay on the device. What the host
needs at once, a token and its probability, comes over as a handful of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from app.record.trace import Sampling

Tensor = Any
TOKEN, CHANCE, CONFIDENCE, FINITE = range(4)
"""Places in what a draw sends to the host."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a sampling is shape rather than value: a recorded program serves all samplings of its kind."""

    greedy: bool
    top_k: int
    nucleus: bool

    @staticmethod
    def of(sampling: Sampling) -> Kind:
        greedy = sampling.temperature == 0
        return Kind(greedy, 0 if greedy else sampling.top_k, not greedy and sampling.top_p < 1)


def scalars(sampling: Sampling, u: float = 0.0) -> list[float]:
    """What of it is value: temperature, top_p and the coin."""
    return [max(sampling.temperature, 1e-30), sampling.top_p, u]


def exact(device: Any) -> Any:
    """The type sums over a row are kept in: float64, which Apple's GPUs and many others do not have."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def warp(logits: Tensor, kind: Kind, values: Tensor) -> Tensor:
    """Probabilities float32 [n, V] of logits float32 [n, V]; values: `scalars`, [3].

    See `sampling.warp`: top_k keeps exactly k tokens and top_p the fewest most likely ones that reach it, equals lowest
    id first.
    """
    if kind.greedy:
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, best, 1.0)
    weights = ((logits - logits.amax(-1, keepdim=True)) / values[0].float()).exp()
    keeps = 0 < kind.top_k < logits.shape[-1]
    if not keeps and not kind.nucleus:
        return weights / weights.sum(-1, keepdim=True)
    falling, ids = weights.sort(dim=-1, descending=True, stable=True)
    if keeps:
        falling, ids = falling[:, : kind.top_k], ids[:, : kind.top_k]
    held = falling.cumsum(-1, dtype=exact(logits.device))
    if kind.nucleus:
        count = (held < values[1] * held[:, -1:]).sum(-1, keepdim=True).clamp(max=held.shape[-1] - 1)
        total = held.gather(-1, count)
        inside = torch.arange(held.shape[-1], device=logits.device) <= count
        falling = torch.where(inside, falling, 0.0)
    else:
        total = held[:, -1:]
    return torch.zeros_like(logits).scatter_(-1, ids, falling / total.float())


def draw(probs: Tensor, u: Tensor) -> Tensor:
    """The id at u (in [0, 1)) of the cumulative distribution of probs [V], int64 [1]; see `sampling.draw`."""
    reached = probs.cumsum(-1, dtype=exact(probs.device))
    total = reached[-1:]
    place = torch.searchsorted(reached, u.to(reached.dtype) * total, right=True)
    # a u just below 1 may be rounded up to the total: the last id of any weight is where that is first reached
    last = torch.searchsorted(reached, total)
    return torch.minimum(place, last).clamp(max=probs.shape[-1] - 1)  # of a row that is not finite, any id


def confidence(logits: Tensor) -> Tensor:
    """The probability of the likeliest token in the plain softmax of each row [n, V]; [n]."""
    return 1 / (logits - logits.amax(-1, keepdim=True)).exp().sum(-1)


def draw_rest(target: Tensor, draft: Tensor, places: Tensor | None, u: Tensor) -> tuple[Tensor, Tensor]:
    """The id at u of the cumulative distribution of max(p - q, 0), int64 [1], and those weights [V].

    target [V], draft [n]: warped rows; places, int64 [n]: the ids the draft's are of (None: all, from 0). Where
    rounding alone refused the draft nothing is left, and it is drawn from p.
    """
    rest = target.clone()
    if places is None:
        n = min(len(rest), len(draft))
        rest[:n] -= draft[:n]
    else:
        rest.index_add_(0, places, draft, alpha=-1)
    rest.clamp_(min=0)
    rest = torch.where(rest.any(), rest, target)
    return draw(rest, u), rest


def step(logits: Tensor, kind: Kind, values: Tensor) -> tuple[Tensor, Tensor]:
    """One drafted token from a row of logits [V]: its warped row [V] (None: one-hot), and TOKEN, CHANCE, CONFIDENCE,
    FINITE [4]."""
    row = logits[None]
    finite = logits.amax().isfinite()
    if kind.greedy:
        probs, token, chance = None, logits.argmax(-1, keepdim=True), torch.ones_like(logits[0])
    else:
        probs = warp(row, kind, values)[0]
        token = draw(probs, values[2:3])
        chance = probs.gather(0, token)[0]
    few = (token[0], chance, confidence(row)[0], finite)
    return probs, torch.stack([each.to(exact(logits.device)) for each in few])
