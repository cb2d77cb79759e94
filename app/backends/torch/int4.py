"""The layers' matrices in 4 bits, by torchao: groups of values in a row share a scale and a zero point. Weights only:
what is multiplied with them, embeddings, norms and the output layer stay as they are.

A packed matrix is a tensor of torchao's that `functional.linear` multiplies by kernels of torch's own: on CUDA those of
tinygemm, on the processor their sibling, which is fast with AVX-512 alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from app.backends.checkpoints.config import LlamaConfig
from app.errors import PairError

Tensor = Any
GROUPS = (128, 64, 32)
"""Values that share a scale: as many as divide the row, of these; a row that none divides stays as it is."""
CAPABILITY = (8, 0)
"""Of a CUDA card, from which on it has the kernels."""
_TALKATIVE = ("torchao", "torch.utils._pytree")
"""They say at import which kernels for other precisions this machine lacks."""


def check(device: Any) -> None:
    """Raise PairError unless the device multiplies by 4-bit weights and the package is here."""
    remedy = "choose --dtype bf16"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < CAPABILITY:
            its, least = (".".join(map(str, each)) for each in (capability, CAPABILITY))
            raise PairError(
                f"{torch.cuda.get_device_name(device)} (compute capability {its}) has no kernels for 4-bit weights, "
                f"which need {least}; {remedy}."
            )
    elif device.type != "cpu":
        raise PairError(f"4-bit weights run on CUDA and on the processor, not on {device.type}; {remedy}.")
    try:
        with _quiet():
            import torchao  # noqa: F401
    except ImportError as error:
        raise PairError(
            f"4-bit weights need torchao, which cannot be imported ({error}); "
            "pip install -r app/backends/requirements-torch.txt."
        ) from None


def group(columns: int) -> int | None:
    """Values of a row that share a scale; None where the row is not packed."""
    return next((size for size in GROUPS if columns % size == 0), None)


def packed(matrix: Tensor) -> Tensor:
    """[rows, columns], bf16 on CUDA, in 4 bits; itself where its rows do not divide into groups."""
    size = group(matrix.shape[1])
    if size is None:
        return matrix
    with _quiet():
        if matrix.device.type == "cpu":
            from torchao.prototype.quantization.int4 import Int4OpaqueTensor as Packed
        else:
            from torchao.quantization import Int4TilePackedTo4dTensor as Packed
    return Packed.from_hp(matrix, [1, size])


def num_bytes(tensor: Tensor) -> int:
    """What a tensor holds, packed or not."""
    parts = getattr(tensor, "tensor_data_names", None)
    return int(tensor.nbytes if parts is None else sum(getattr(tensor, name).nbytes for name in parts))


def layer_bytes(config: LlamaConfig, value_bytes: int) -> int:
    """Of a layer with packed matrices; value_bytes: of a scale, and of what is not packed."""
    heads, kv_heads = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = ((heads + 2 * kv_heads, hidden), (hidden, heads), (2 * inner, hidden), (hidden, inner))
    return 2 * hidden * value_bytes + sum(_matrix_bytes(*shape, value_bytes) for shape in shapes)


def _matrix_bytes(rows: int, columns: int, value_bytes: int) -> int:
    size, values = group(columns), rows * columns
    return values * value_bytes if size is None else values // 2 + values // size * 2 * value_bytes


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
