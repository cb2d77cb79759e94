"""A graph's matrices in the precision asked for, packed a piece at a time: in float32 a model is four times as large as
in 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from app.backends.checkpoints import int8
from app.backends.checkpoints.checkpoint import Weights, beyond_half

Node = Any  # openvino ships no types for its operators
_PIECE = 4 << 20  # values packed at once


def matrix(parts: Iterable[Weights], shape: tuple[int, int], dtype: str, name: str) -> Node:
    """The node of a float32 matrix of `shape`, stored as `dtype`. parts: its rows, in order, a stack of matrices each;
    name: the first of them."""
    return _KINDS[dtype](parts, shape, name)


def _pieces(parts: Iterable[Weights]) -> Iterable[tuple[int, Weights]]:
    """(place of the first row, rows) of the stacked parts."""
    at = 0
    for part in parts:
        rows = max(1, _PIECE // part.shape[1])
        for begin in range(0, len(part), rows):
            piece = part[begin : begin + rows]
            yield at + begin, piece
        at += len(part)


def _int8(parts: Iterable[Weights], shape: tuple[int, int], name: str) -> Node:
    values: NDArray[np.int8] | None = None
    scales: NDArray[np.float16] | None = None
    for at, piece in _pieces(parts):
        packed, own = int8.quantised(piece, name)
        if values is None or scales is None:
            values = np.empty((shape[0], *packed.shape[1:]), np.int8)
            scales = np.empty((shape[0], *own.shape[1:]), np.float16)
        values[at : at + len(piece)], scales[at : at + len(piece)] = packed, own
    scaled = op.multiply(op.convert(op.constant(values), np.float16), op.constant(scales))
    return op.convert(op.reshape(scaled, op.constant(np.array(shape, np.int64)), False), np.float32)


def four_bits(parts: Iterable[tuple[NDArray[np.uint8], NDArray[np.float16]]]) -> Node:
    """The node of a matrix that a GGUF stores as Q4_0, kept so: exact, and half the bytes of 8 bits. parts: its rows, a
    stack of matrices, each (values, scales) of `GgufCheckpoint.four_bits`."""
    values, scales = (np.concatenate(each) for each in zip(*parts, strict=True))
    rows, columns = values.shape
    pairs = np.ascontiguousarray(values[:, 0::2] | values[:, 1::2] << 4)
    groups = ov.Shape([rows, scales.shape[1], columns // scales.shape[1]])
    packed = op.constant(ov.Tensor(pairs, groups, ov.Type.u4), shared_memory=False)
    zero = op.constant(ov.Tensor(np.array([8], np.uint8), ov.Shape([1, 1, 1]), ov.Type.u4), shared_memory=False)
    centred = op.subtract(op.convert(packed, np.float16), op.convert(zero, np.float16))
    scaled = op.multiply(centred, op.constant(np.ascontiguousarray(scales[:, :, None])))
    return op.convert(op.reshape(scaled, op.constant(np.array([rows, columns], np.int64)), False), np.float32)


def _bf16(parts: Iterable[Weights], shape: tuple[int, int], name: str) -> Node:
    rounded = np.empty(shape, np.uint16)
    for at, piece in _pieces(parts):
        bits = piece.view(np.uint32)
        rounded[at : at + len(piece)] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    tensor = ov.Tensor(rounded.view(np.int16), ov.Shape(shape), ov.Type.bf16)
    return op.convert(op.constant(tensor, shared_memory=False), np.float32)


def _cast(parts: Iterable[Weights], shape: tuple[int, int], dtype: Any) -> NDArray[Any]:
    values = np.empty(shape, dtype)
    for at, piece in _pieces(parts):
        values[at : at + len(piece)] = piece
    return values


def _f16(parts: Iterable[Weights], shape: tuple[int, int], name: str) -> Node:
    with np.errstate(over="ignore"):
        values = _cast(parts, shape, np.float16)
    if not np.isfinite(values).all():
        raise beyond_half(name)
    return op.convert(op.constant(values), np.float32)


def _f32(parts: Iterable[Weights], shape: tuple[int, int], name: str) -> Node:
    return op.constant(_cast(parts, shape, np.float32))


_KINDS: dict[str, Callable[[Iterable[Weights], tuple[int, int], str], Node]] = {
    "int8": _int8,
    "bf16": _bf16,
    "f16": _f16,
    "f32": _f32,
}
DTYPES = tuple(_KINDS)
