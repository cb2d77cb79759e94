"""The steps between matrix products in plain torch: on any device, and the measure of the fused kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from app.backends.torch.llama import Shape

Tensor = Any


@dataclass(frozen=True, slots=True)
class Place:
    """cos, sin: float32 [W, 1, size / 2]. index: the window's positions, int64 [W]. mask: bool [W * group, end],
    whether a query may see a key; None where a single row sees all."""

    cos: Tensor
    sin: Tensor
    index: Tensor
    mask: Tensor | None
    end: int


@dataclass(frozen=True, slots=True)
class Plain:
    """See `llama.Operations`. exact: a window ends where what may be read does, so that a single row sees all of it."""

    exact: bool = False

    def angles(self, position: Tensor, rows: int, frequencies: Tensor, end: int, shape: Shape) -> Place:
        index = position + torch.arange(rows, device=position.device)
        angles = (index[:, None].float() * frequencies)[:, None]
        seen = None
        if rows > 1 or not self.exact:
            seen = torch.arange(end, device=position.device) <= index.repeat_interleave(shape.group)[:, None]
        return Place(angles.cos(), angles.sin(), index, seen, end)

    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x = x if delta is None else x + delta
        return x, functional.rms_norm(x, weight.shape, weight, eps)

    def attend(self, qkv: Tensor, cache: tuple[Tensor, Tensor], place: Place, shape: Shape) -> Tensor:
        rows, keys, (k, v) = len(qkv), shape.heads + shape.kv_heads, cache
        parts = qkv.view(rows, keys + shape.kv_heads, shape.head_size)
        low, high = parts[:, :keys].float().chunk(2, -1)
        rotated = torch.cat((low * place.cos - high * place.sin, high * place.cos + low * place.sin), -1).to(qkv.dtype)
        k.index_copy_(1, place.index, rotated[:, shape.heads :].transpose(0, 1))
        v.index_copy_(1, place.index, parts[:, keys:].transpose(0, 1))
        # the queries that share a key head are rows of one attention: keys are read once, and not copied for each
        q = rotated[:, : shape.heads].reshape(rows, shape.kv_heads, shape.group, shape.head_size).transpose(0, 1)
        q = q.reshape(1, shape.kv_heads, rows * shape.group, shape.head_size)
        mixed = functional.scaled_dot_product_attention(
            q, k[None, :, : place.end], v[None, :, : place.end], attn_mask=place.mask
        )
        mixed = mixed.view(shape.kv_heads, rows, shape.group, shape.head_size).transpose(0, 1)
        return mixed.reshape(rows, shape.heads * shape.head_size)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        return functional.silu(gate) * up
