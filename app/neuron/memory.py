"""What a model puts on NeuronCores: padded weights, replicated KV heads, working memory.

Weights and KV cache are computed. Working memory is one estimate of ours, fitted to six published memory figures (all
of transformers-neuronx): beside them, a model takes about 0.7 GB on each core it is spread over (compiled code, scratch
memory, runtime). Live figures (`app.neuron.monitor`) replace it where a Neuron device is present.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from app.neuron.catalogue import CORE_BYTES, NXD_INFERENCE, TRANSFORMERS_NEURONX, ModelConfig

GB = 10**9
WORKING_BYTES_PER_CORE = 700 * 10**6
"""Per model: our fit, an estimate."""
DTYPE_BYTES = {"bf16": 2, "f16": 2, "f32": 4}


@dataclass(frozen=True, slots=True)
class CoreMemory:
    """Bytes that each core holds with both models spread over all of the planned cores; working is the estimate."""

    target_weights: int
    target_kv: int
    draft_weights: int
    draft_kv: int
    working: int
    capacity: int = CORE_BYTES

    @property
    def total(self) -> int:
        return self.target_weights + self.target_kv + self.draft_weights + self.draft_kv + self.working

    @property
    def fits(self) -> bool:
        return self.total < self.capacity


def device_kv_heads(model: ModelConfig, tp_degree: int, library: str = TRANSFORMERS_NEURONX) -> int:
    """KV heads that the library stores in all, after its padding and replication.

    Every core needs whole heads, so query heads are padded to a multiple of the degree, and KV heads with them where
    each query head has its own. Grouped KV heads that divide by the degree stay as they are. Else transformers-neuronx
    replicates them to one a core where the degree is a multiple of them and the query heads still group evenly, pads
    them where a core's query heads are just one group, and stores one for every (padded) query head elsewhere; NxD
    Inference replicates them to one a core where the degree is a multiple of them, and stores one for every query head
    elsewhere.
    """
    padded_heads = _round_up(model.num_heads, tp_degree)
    if model.num_kv_heads == model.num_heads:
        return padded_heads
    if model.num_kv_heads % tp_degree == 0:
        return model.num_kv_heads
    multiple = tp_degree % model.num_kv_heads == 0
    if library == NXD_INFERENCE:
        return tp_degree if multiple else padded_heads
    if multiple and (padded_heads - model.num_heads) % model.num_kv_heads == 0:
        return tp_degree
    if padded_heads * model.num_kv_heads == model.num_heads * tp_degree:
        return _round_up(model.num_kv_heads, tp_degree)
    return padded_heads


def device_parameters(model: ModelConfig, tp_degree: int, library: str = TRANSFORMERS_NEURONX) -> int:
    """Parameters over all cores at a degree: padded heads and vocabulary, replicated KV heads included. NxD Inference
    copies a tied output layer."""
    kv_heads = device_kv_heads(model, tp_degree, library)
    q_o = 2 * model.hidden_size * model.head_dim * (_round_up(model.num_heads, tp_degree) - model.num_heads)
    k_v = 2 * model.hidden_size * model.head_dim * (kv_heads - model.num_kv_heads)
    head = model.hidden_size * (_round_up(model.vocab_size, tp_degree) - model.vocab_size)
    copied = model.hidden_size * model.vocab_size if model.tied and library == NXD_INFERENCE else 0
    return model.num_parameters + model.num_layers * (q_o + k_v) + head + copied


def kv_bytes(model: ModelConfig, dtype: str, n_positions: int, num_kv_heads: int | None = None) -> int:
    """Bytes of one sequence's KV cache; num_kv_heads: as stored on a device, the model's own where None."""
    heads = model.num_kv_heads if num_kv_heads is None else num_kv_heads
    return 2 * model.num_layers * heads * model.head_dim * n_positions * DTYPE_BYTES[dtype]


def core_memory(
    target: ModelConfig,
    draft: ModelConfig,
    dtype: str,
    n_positions: int,
    tp_degree: int,
    *,
    library: str = TRANSFORMERS_NEURONX,
    capacity: int = CORE_BYTES,
) -> CoreMemory:
    """What each of `tp_degree` shared cores holds of the `capacity` bytes it has."""

    def share(model: ModelConfig) -> tuple[int, int]:
        weights = device_parameters(model, tp_degree, library) * DTYPE_BYTES[dtype]
        kv = kv_bytes(model, dtype, n_positions, device_kv_heads(model, tp_degree, library))
        return math.ceil(weights / tp_degree), math.ceil(kv / tp_degree)

    target_weights, target_kv = share(target)
    draft_weights, draft_kv = share(draft)
    return CoreMemory(target_weights, target_kv, draft_weights, draft_kv, 2 * WORKING_BYTES_PER_CORE, capacity)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
