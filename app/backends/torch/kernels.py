"""The steps between matrix products as fused Triton kernels, for CUDA: a pass of many small launches is what makes a
GPU slow at one token at a time.

Attention reads the cache in fixed blocks of positions, each block by a program of its own, and puts the blocks together
in order (flash decoding, Dao et al. 2023): so the sums of a row depend neither on how many rows are scored with it nor on
how far the cache reaches beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]

from app.backends.torch.llama import Shape

Tensor = Any
SPLIT = 128
"""Cache positions a program of `_attend` reads."""
TILE = 64
"""Of those at a time."""


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _add_norm(x, delta, weight, total, normed, size, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < size
    values = tl.load(x + row * size + at, mask=inside, other=0.0)
    if ADD:
        values = values + tl.load(delta + row * size + at, mask=inside, other=0.0)
        tl.store(total + row * size + at, values, mask=inside)
    wide = values.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / size + eps)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * size + at, (wide * scale * gain).to(values.dtype), mask=inside)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _rotate(  # type: ignore[no-untyped-def]
    qkv,
    cos,
    sin,
    position,
    queries,
    keys,
    values,
    cache_stride,
    HEADS: tl.constexpr,  # noqa: N803
    KV_HEADS: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row, head = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    source = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * SIZE
    low = tl.load(source + at, mask=inside)
    high = tl.load(source + HALF + at, mask=inside)
    place = tl.load(position) + row
    if head < HEADS + KV_HEADS:
        c = tl.load(cos + row * HALF + at, mask=inside)
        s = tl.load(sin + row * HALF + at, mask=inside)
        wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
        low = (wide_low * c - wide_high * s).to(low.dtype)
        high = (wide_high * c + wide_low * s).to(high.dtype)
    if head < HEADS:
        goal = queries + (row * HEADS + head) * SIZE
    elif head < HEADS + KV_HEADS:
        goal = keys + (head - HEADS) * cache_stride + place * SIZE
    else:
        goal = values + (head - HEADS - KV_HEADS) * cache_stride + place * SIZE
    tl.store(goal + at, low, mask=inside)
    tl.store(goal + HALF + at, high, mask=inside)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _attend(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    position,
    partial,
    maxima,
    sums,
    cache_stride,
    rows,
    scale,
    HEADS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    SPLIT: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
):
    """One block of positions for one key head. partial [splits, rows, heads, size], maxima and sums [splits, rows, heads]."""
    kv_head, split = tl.program_id(0), tl.program_id(1)
    begin = split * SPLIT
    first = tl.load(position)
    if begin < first + rows:
        at = tl.arange(0, WIDTH)
        used = at < SIZE
        flat = tl.arange(0, ROWS)
        row, head = flat // GROUP, kv_head * GROUP + flat % GROUP
        real = row < rows
        offsets = (row * HEADS + head) * SIZE
        q = tl.load(queries + offsets[:, None] + at[None, :], mask=real[:, None] & used[None, :], other=0.0)
        best = tl.full([ROWS], -1e30, tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        mixed = tl.zeros([ROWS, WIDTH], tl.float32)
        for step in range(0, SPLIT, TILE):
            place = begin + step + tl.arange(0, TILE)
            held = place < first + rows
            base = kv_head * cache_stride + place[:, None] * SIZE + at[None, :]
            k = tl.load(keys + base, mask=held[:, None] & used[None, :], other=0.0)
            v = tl.load(values + base, mask=held[:, None] & used[None, :], other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            seen = place[None, :] <= (first + row)[:, None]
            scores = tl.where(seen, scores, -1e30)
            higher = tl.maximum(best, tl.max(scores, 1))
            weights = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
            fading = tl.exp(best - higher)
            total = total * fading + tl.sum(weights, 1)
            mixed = mixed * fading[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            best = higher
        slot = (split * rows + row) * HEADS + head
        tl.store(partial + slot[:, None] * SIZE + at[None, :], mixed, mask=real[:, None] & used[None, :])
        tl.store(maxima + slot, best, mask=real)
        tl.store(sums + slot, total, mask=real)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _join(  # type: ignore[no-untyped-def]
    partial,
    maxima,
    sums,
    position,
    mixed,
    rows,
    HEADS: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    SPLIT: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
):
    """The blocks a row sees, in order. mixed [rows, heads, size]."""
    row, head = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, WIDTH)
    used = at < SIZE
    splits = (tl.load(position) + row) // SPLIT + 1
    best = tl.full([1], -1e30, tl.float32)
    total = tl.zeros([1], tl.float32)
    joined = tl.zeros([WIDTH], tl.float32)
    for split in range(splits):
        slot = (split * rows + row) * HEADS + head
        here = tl.load(maxima + slot)
        higher = tl.maximum(best, here)
        old, new = tl.exp(best - higher), tl.exp(here - higher)
        total = total * old + tl.load(sums + slot) * new
        joined = joined * old + tl.load(partial + slot * SIZE + at, mask=used, other=0.0) * new
        best = higher
    goal = mixed + (row * HEADS + head) * SIZE + at
    tl.store(goal, (joined / total).to(mixed.dtype.element_ty), mask=used)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _silu_mul(gate_up, out, inner, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < inner
    gate = tl.load(gate_up + row * 2 * inner + at, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + at, mask=inside).to(tl.float32)
    activated = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * inner + at, (activated * up).to(out.dtype.element_ty), mask=inside)


@dataclass(frozen=True, slots=True)
class Place:
    """cos, sin: float32 [W, size / 2]. position: int64 [1]. splits: blocks of positions that may be read."""

    cos: Tensor
    sin: Tensor
    position: Tensor
    splits: int


class Fused:
    """See `llama.Operations`."""

    def angles(self, position: Tensor, rows: int, frequencies: Tensor, end: int, shape: Shape) -> Place:
        index = position + torch.arange(rows, device=position.device)
        angles = index[:, None].float() * frequencies
        return Place(angles.cos(), angles.sin(), position, -(-end // SPLIT))

    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows, size = x.shape
        normed = torch.empty_like(x)
        total = x if delta is None else torch.empty_like(x)
        block = triton.next_power_of_2(size)
        _add_norm[(rows,)](
            x, x if delta is None else delta, weight, total, normed, size, eps, delta is not None, block, num_warps=8
        )
        return total, normed

    def attend(self, qkv: Tensor, cache: tuple[Tensor, Tensor], place: Place, shape: Shape) -> Tensor:
        rows, (keys, values) = len(qkv), cache
        heads, kv_heads, size = shape.heads, shape.kv_heads, shape.head_size
        stride, half, width = keys.stride(0), size // 2, max(16, triton.next_power_of_2(size))
        queries = qkv.new_empty(rows, heads * size)
        _rotate[(rows, heads + 2 * kv_heads)](
            qkv, place.cos, place.sin, place.position, queries, keys, values, stride,
            heads, kv_heads, size, half, triton.next_power_of_2(half), num_warps=1,
        )  # fmt: skip
        partial = torch.empty((place.splits, rows, heads, size), dtype=torch.float32, device=qkv.device)
        maxima, sums = torch.empty((2, place.splits, rows, heads), dtype=torch.float32, device=qkv.device).unbind(0)
        _attend[(kv_heads, place.splits)](
            queries, keys, values, place.position, partial, maxima, sums, stride, rows, size**-0.5,
            heads, shape.group, size, max(16, triton.next_power_of_2(rows * shape.group)), SPLIT, TILE, width, num_warps=4,
        )  # fmt: skip
        mixed = torch.empty_like(queries)
        _join[(rows, heads)](partial, maxima, sums, place.position, mixed, rows, heads, size, SPLIT, width, num_warps=2)
        return mixed

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, inner)
        block = 1024
        _silu_mul[(rows, triton.cdiv(inner, block))](gate_up, out, inner, block, num_warps=4)
        return out
