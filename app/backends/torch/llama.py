"""A Llama in torch: fused weights, static caches, and one function from token ids to hidden states.

Nothing here depends on values, only on shapes, so that a pass can be recorded once as a CUDA graph and replayed. What
differs by device is in `Operations`: plain torch (`operations`) or fused kernels (`kernels`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from app.backends.checkpoints.checkpoint import Checkpoint
from app.backends.checkpoints.config import LlamaConfig

Tensor = Any  # torch.Tensor: the type checker runs without torch
SPARE_ROWS = 16  # of a cache beyond the context: unused rows of a padded window are written there


@dataclass(frozen=True, slots=True)
class Shape:
    """What a layer's matrices mean. heads, kv_heads: those held here, a part of the model's under tensor
    parallelism."""

    heads: int
    kv_heads: int
    head_size: int
    eps: float

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class Layer:
    """qkv [(heads + 2 kv_heads) size, hidden], out [hidden, heads size], gate_up [2 inner, hidden], down [hidden,
    inner]."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive layers on one device; the first stage has the embeddings, the last the final norm and output
    layer."""

    device: Any
    layers: tuple[Layer, ...]
    frequencies: Tensor  # float32 [size / 2], radians a position
    embeddings: Tensor | None = None
    norm: Tensor | None = None
    head: Tensor | None = None
    fusion: Tensor | None = None
    """Of a draft that reads states, with the embeddings: [hidden, 2 hidden]."""

    def tensors(self) -> list[Tensor]:
        """Every weight, a shared one once."""
        own = [getattr(layer, name) for layer in self.layers for name in Layer.__slots__]
        ends = (self.embeddings, self.norm, self.head, self.fusion)
        held = {id(each): each for each in (*own, *ends) if each is not None}
        return list(held.values())


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of one stage: a pair of [kv_heads, positions, size] a layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @staticmethod
    def empty(stage: Stage, shape: Shape, n_positions: int, dtype: Any) -> Cache:
        size = (len(stage.layers), 2, shape.kv_heads, n_positions + SPARE_ROWS, shape.head_size)
        # zeros: what is masked is multiplied by 0, which memory left over may not survive
        if stage.device.type == "cpu":  # NumPy's take memory only once they are written, and most never are
            values = torch.from_numpy(np.zeros(int(np.prod(size)) * dtype.itemsize, np.uint8)).view(dtype).view(size)
        else:
            values = torch.zeros(size, dtype=dtype, device=stage.device)
        return Cache(tuple((layer[0], layer[1]) for layer in values))


class Operations(Protocol):
    """The steps between a layer's matrix products, over W rows of a window that begins at `position` [1], int64."""

    def angles(self, position: Tensor, rows: int, frequencies: Tensor, end: int, shape: Shape) -> Any:
        """What `attend` needs of the window's place in the text, made once a pass. end: positions read at most."""
        ...

    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """(x + delta, its RMS norm times weight), [W, hidden] each."""
        ...

    def attend(self, qkv: Tensor, cache: tuple[Tensor, Tensor], place: Any, shape: Shape) -> Tensor:
        """Rotate queries and keys of qkv [W, (heads + 2 kv_heads) size], write keys and values into the cache, attend
        to all up to each row's own; [W, heads size]."""
        ...

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up, [W, inner] of [W, 2 inner]."""
        ...


def run_stage(
    stage: Stage,
    shape: Shape,
    cache: Cache,
    x: Tensor,
    position: Tensor,
    end: int,
    operations: Operations,
    reduce: Callable[[Tensor], Tensor],
    before: Tensor | None = None,
) -> Tensor:
    """One pass through a stage. x: ids int64 [W] for the first stage, [W, hidden] for others. Returns [W, hidden], the
    final normed states of the last stage.

    position [1], int64: where the window begins. end: cache positions that may be read; position + W at least.
    reduce: sums a partial product over the ranks of tensor parallelism. before [W, 2 hidden]: what the first stage of a
    draft that reads states reads beside the ids.
    """
    if stage.embeddings is not None:
        x = functional.embedding(x, stage.embeddings)
    if before is not None:
        x = x + functional.linear(before, stage.fusion)
    place = operations.angles(position, x.shape[0], stage.frequencies, end, shape)
    delta = None
    for layer, keys_values in zip(stage.layers, cache.layers, strict=True):
        x, y = operations.add_norm(x, delta, layer.norm, shape.eps)
        qkv = functional.linear(y, layer.qkv, layer.qkv_bias)
        mixed = operations.attend(qkv, keys_values, place, shape)
        delta = reduce(functional.linear(mixed, layer.out, layer.out_bias))
        x, y = operations.add_norm(x, delta, layer.mlp_norm, shape.eps)
        inner = operations.silu_mul(functional.linear(y, layer.gate_up, layer.gate_up_bias))
        delta = reduce(functional.linear(inner, layer.down, layer.down_bias))
    if stage.norm is None:
        return x if delta is None else x + delta
    return operations.add_norm(x, delta, stage.norm, shape.eps)[1]


@dataclass(frozen=True, slots=True)
class Part:
    """The share of one rank of tensor parallelism: the rank-th of `of` equal parts."""

    rank: int = 0
    of: int = 1

    def rows(self, values: Any) -> Any:
        """Its rows of a matrix [n, ...], or of a vector [n]; n divisible."""
        share = values.shape[0] // self.of
        return values[self.rank * share : (self.rank + 1) * share]

    def columns(self, values: Any) -> Any:
        share = values.shape[1] // self.of
        return values[:, self.rank * share : (self.rank + 1) * share]


def read(
    config: LlamaConfig,
    weights: Checkpoint,
    devices: Sequence[Any],
    dtype: Any,
    part: Part | None = None,
    pack: Callable[[Tensor], Tensor] = lambda matrix: matrix,
) -> list[Stage]:
    """The checkpoint's values on their devices, tensor by tensor. devices: of each layer, [num_layers]; the embeddings
    go with the first, the output layer with the last. pack: what is done with a layer's matrix there. Raises
    PairError."""
    part = part or Part()
    factors = weights.tensor("rope_factors.weight") if "rope_factors.weight" in weights else None
    frequencies = torch.from_numpy(config.rope_frequencies(factors).astype(np.float32))

    def tensor(device: Any, *values: Any) -> Tensor:
        """The matrices one under the other, in the device's precision."""
        parts = [torch.from_numpy(np.require(each, requirements=["C", "W"])).to(device, dtype) for each in values]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def layer(number: int, device: Any) -> Layer:
        at = f"model.layers.{number}."

        def rows(*names: str) -> Tensor:
            return pack(tensor(device, *(part.rows(weights.tensor(f"{at}{name}.weight")) for name in names)))

        def biases(*names: str) -> Tensor | None:
            full = [f"{at}{name}.bias" for name in names]
            if not any(name in weights for name in full):
                return None
            sizes = [weights.tensor(f"{at}{name}.weight").shape[0] for name in names]
            values = [
                weights.tensor(name) if name in weights else np.zeros(size, np.float32)
                for name, size in zip(full, sizes, strict=True)
            ]
            return tensor(device, *(part.rows(each) for each in values))

        def columns(name: str) -> tuple[Tensor, Tensor | None]:
            bias = None
            if f"{at}{name}.bias" in weights and part.rank == 0:  # the ranks' products are summed
                bias = tensor(device, weights.tensor(f"{at}{name}.bias"))
            return pack(tensor(device, part.columns(weights.tensor(f"{at}{name}.weight")))), bias

        attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        inner = ("mlp.gate_proj", "mlp.up_proj")
        out, out_bias = columns("self_attn.o_proj")
        down, down_bias = columns("mlp.down_proj")
        return Layer(
            norm=tensor(device, weights.tensor(f"{at}input_layernorm.weight")),
            qkv=rows(*attention),
            qkv_bias=biases(*attention),
            out=out,
            out_bias=out_bias,
            mlp_norm=tensor(device, weights.tensor(f"{at}post_attention_layernorm.weight")),
            gate_up=rows(*inner),
            gate_up_bias=biases(*inner),
            down=down,
            down_bias=down_bias,
        )

    layers = [layer(number, device) for number, device in enumerate(devices)]
    embeddings = tensor(devices[0], weights.tensor("model.embed_tokens.weight"))
    tied = config.tied or "lm_head.weight" not in weights
    if tied and devices[0] == devices[-1] and part.of == 1:
        head = embeddings
    else:
        whole = weights.tensor("model.embed_tokens.weight" if tied else "lm_head.weight")
        head = tensor(devices[-1], part.rows(whole) if parts_head(config, part) else whole)
    norm = tensor(devices[-1], weights.tensor("model.norm.weight"))
    fusion = tensor(devices[0], weights.tensor("fusion.weight")) if config.conditioned else None
    return staged(layers, devices, frequencies, embeddings, norm, head, fusion)


def parts_head(config: LlamaConfig, part: Part) -> bool:
    """Whether the output layer's rows are shared among ranks: where they divide evenly."""
    return part.of > 1 and (config.kept_ids or config.vocab_size) % part.of == 0


def staged(
    layers: Sequence[Layer],
    devices: Sequence[Any],
    frequencies: Tensor,
    embeddings: Tensor,
    norm: Tensor,
    head: Tensor,
    fusion: Tensor | None = None,
) -> list[Stage]:
    """Runs of layers on one device each, in order."""
    stages = []
    begin = 0
    for end in range(1, len(layers) + 1):
        if end == len(layers) or devices[end] != devices[begin]:
            first, last = begin == 0, end == len(layers)
            stages.append(
                Stage(
                    devices[begin],
                    tuple(layers[begin:end]),
                    frequencies.to(devices[begin]),
                    embeddings if first else None,
                    norm if last else None,
                    head if last else None,
                    fusion if first else None,
                )
            )
            begin = end
    return stages


def shape_of(config: LlamaConfig, part: Part | None = None) -> Shape:
    """The heads of one rank's part; all of them by default."""
    of = 1 if part is None else part.of
    return Shape(config.num_heads // of, config.num_kv_heads // of, config.head_size, config.rms_norm_eps)
