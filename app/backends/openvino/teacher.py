"""Many sequences of one Llama in one pass, with its final hidden states: the engine behind `app.distill`.

The graph and its settings are the default engine's, so the text is that of the target as it is played. At some
hundred rows a pass is bound by arithmetic: bf16 where the processor has it nearly halves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from app.backends.checkpoints.checkpoint import Checkpoint
from app.backends.openvino import llama_graph
from app.backends.openvino.model import compile_options

BLOCK = 32  # tokens a KV block, fixed by the CPU plugin


class TeacherGraph:
    """`slots` sequences of up to `n_positions` tokens; slot s owns KV blocks s * n_blocks up to (s + 1) * n_blocks."""

    def __init__(
        self, checkpoint: Checkpoint, slots: int, n_positions: int, threads: int | None = None, dtype: str = "int8"
    ) -> None:
        assert n_positions % BLOCK == 0, n_positions
        self.slots, self.n_positions, self.n_blocks = slots, n_positions, n_positions // BLOCK
        core = ov.Core()
        options = compile_options(core, dtype, threads) | {"ENABLE_CPU_PINNING": "NO"}  # workers would share a core
        compiled = core.compile_model(_graph(checkpoint, dtype), "CPU", options)
        self._request = compiled.create_infer_request()
        self._caches: list[ov.Tensor] = []
        for port in compiled.inputs:
            name = port.get_any_name()
            if "cache." in name:
                tail = [port.get_partial_shape()[axis].get_length() for axis in (1, 2, 3)]
                cache = ov.Tensor(port.get_element_type(), ov.Shape([slots * self.n_blocks, *tail]))
                cache.data.view(np.uint8)[:] = 0  # touch every page now, not during the first passes
                self._request.set_tensor(name, cache)
                self._caches.append(cache)

    def score(
        self,
        fed: list[tuple[int, int, list[int]]],
        temperatures: list[float],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Feeds (slot, tokens already in its cache, new ids), all in one pass.

        Returns, for the last new token of each, its final hidden state [len(fed), D] and softmax(logits /
        temperature) [len(fed), V]; temperature 0 is scored as 1. Both are valid until the next call.
        """
        counts = [len(ids) for _, _, ids in fed]
        ends = np.cumsum(counts)
        used = [-(-(length + len(ids)) // BLOCK) for _, length, ids in fed]
        feed: dict[str, NDArray[Any]] = {
            "input_ids": np.concatenate([np.asarray(ids, np.int64) for _, _, ids in fed]),
            "position_ids": np.concatenate(
                [np.arange(length, length + len(ids), dtype=np.int64) for _, length, ids in fed]
            ),
            "max_context_len": np.array(max(length + len(ids) for _, length, ids in fed), np.int32),
            "past_lens": np.array([length for _, length, _ in fed], np.int32),
            "subsequence_begins": np.array([0, *ends], np.int32),
            "block_indices_begins": np.cumsum([0, *used], dtype=np.int32),
            "block_indices": np.concatenate(
                [
                    np.arange(slot * self.n_blocks, slot * self.n_blocks + n, dtype=np.int32)
                    for (slot, _, _), n in zip(fed, used, strict=True)
                ]
            ),
            "logit_rows": (ends - 1).astype(np.int64),
            "inverse_temperature": np.array([1 / (t or 1) for t in temperatures], np.float32).reshape(-1, 1, 1),
        }
        for name, value in feed.items():
            self._request.set_tensor(name, ov.Tensor(value))
        self._request.infer()
        hidden, probs = (self._request.get_tensor(name).data for name in ("hidden", "probs"))
        return hidden.reshape(len(fed), -1), probs.reshape(len(fed), -1)

    def first_block(self, slot: int) -> list[NDArray[Any]]:
        """A copy of the slot's first KV block in every layer."""
        return [cache.data[slot * self.n_blocks].copy() for cache in self._caches]

    def set_first_block(self, slot: int, block: list[NDArray[Any]]) -> None:
        for cache, values in zip(self._caches, block, strict=True):
            cache.data[slot * self.n_blocks] = values


def _graph(checkpoint: Checkpoint, dtype: str) -> ov.Model:
    """The engine's graph with the outputs hidden [N, 1, D] and probs [N, 1, V] instead of logits."""
    plain = llama_graph.stateful(checkpoint, dtype)
    logits = plain.output("logits").get_node().input_value(0)
    hidden = logits.get_node().input_value(0)
    inverse_temperature = op.parameter([-1, 1, 1], np.float32, name="inverse_temperature")
    inverse_temperature.output(0).set_names({"inverse_temperature"})
    probs = op.softmax(op.multiply(logits, inverse_temperature), 2)
    probs.output(0).set_names({"probs"})
    kept = op.result(hidden)
    hidden.set_names({"hidden"})
    graph = ov.Model([kept, op.result(probs)], plain.get_sinks(), [*plain.get_parameters(), inverse_temperature])
    return llama_graph.paged(graph)
