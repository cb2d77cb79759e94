"""What the draft learns by: divergences from the target's distribution over the kept ids, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from app.distill.writer import product

LEAST = 0.02  # overlap below which the gradient of its logarithm grows no further


class Divergence(torch.autograd.Function):
    """Weighted sum over rows of (1 - late) KL(p || q) + late * sharp, p and q over the kept ids.

    sharp is what decides acceptance: above T = 0 -log sum(min(p, q)), the logarithm of the chance that a draft is kept;
    at T = 0, where only the target's likeliest id counts, -log q of that. KL learns faster. Output layer and gradient
    are included: the logits of a batch are as large as all else, so they are made, used and forgotten `ROWS` at a time.
    """

    ROWS = 16384  # at once
    CACHED = 128  # on a processor: what stays in its cache

    @staticmethod
    def forward(
        ctx: Any,
        own: Tensor,
        head: Tensor,
        teacher: Tensor,
        output: Tensor,
        weights: Tensor,
        late: Tensor,
        cold: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """own, teacher [n, D]: final states of student and target. head, output [K, D]: their output layers over the
        kept ids; `output`'s type is that of the products. weights, late [n]; cold bool [n]: drawn at T = 0.

        Returns the sum, and of every row [n] the chance that its draft is kept: sum(min(p, q)), or at T = 0 whether
        both have the same likeliest id.
        """
        step = Divergence.CACHED if own.device.type == "cpu" else Divergence.ROWS
        kind = output.dtype
        own_grad = torch.empty_like(own, dtype=torch.float32)
        head_grad = torch.zeros_like(head, dtype=torch.float32)
        own, matrix = own.to(kind), head.to(kind)
        value, kept = torch.zeros((), device=own.device), torch.empty(len(own), device=own.device)
        for part in range(0, len(own), step):
            rows = slice(part, part + step)
            z, t = product(own[rows], matrix), product(teacher[rows].to(kind), output)
            divergence, grad, kept[rows] = _computed(z, t, late[rows, None], cold[rows, None])
            value += (weights[rows] * divergence).sum()
            grad = (grad * weights[rows, None]).to(kind)
            own_grad[rows] = grad @ matrix
            head_grad += grad.T @ own[rows]
        ctx.save_for_backward(own_grad, head_grad)
        ctx.mark_non_differentiable(kept)
        return value, kept

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        own_grad, head_grad = ctx.saved_tensors
        return grads[0] * own_grad, grads[0] * head_grad, None, None, None, None, None


def _rows(z: Tensor, t: Tensor, late: Tensor, cold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(divergence [n], its gradient by z [n, K], chance kept [n]) of logits z, t [n, K]."""
    log_q, log_p = z.log_softmax(1), t.log_softmax(1)
    q, p = log_q.exp(), log_p.exp()
    kl = (p * (log_p - log_q)).sum(1)
    below = (q < p) * q
    inside = below.sum(1, keepdim=True)
    overlap = torch.minimum(p, q).sum(1, keepdim=True)
    best = t.argmax(1, keepdim=True)
    right = z.argmax(1, keepdim=True) == best
    sharp_grad = torch.where(cold, q, (q * inside - below) / overlap.clamp(min=LEAST))
    sharp_grad = sharp_grad.scatter_add(1, best, -cold.to(q.dtype))
    sharp = torch.where(cold, -log_q.gather(1, best), -overlap.clamp(min=LEAST).log())
    grad = torch.lerp(q - p, sharp_grad, late)
    kept = torch.where(cold, right.to(q.dtype), overlap)
    return torch.lerp(kl[:, None], sharp, late)[:, 0], grad, kept[:, 0]


_computed: Callable[..., tuple[Tensor, Tensor, Tensor]] = _rows


def compile_rows() -> None:
    """From now on the rows' figures are fused into few kernels: a third of a training step less on CUDA, for some
    seconds of compiling."""
    global _computed
    if _computed is _rows:
        _computed = torch.compile(_rows, dynamic=True)
