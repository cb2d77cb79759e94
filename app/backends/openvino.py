"""The default engine: any Llama checkpoint on the CPU through OpenVINO, with free rollback and bit identity.

Bit identity: the plugin scores a single row with another kernel than several, so a single row is always scored as
two, the second a dummy whose cache slot is overwritten before anything attends to it; the output layer too sees
two rows at least. The KV cache is never u8 (the plugin's default), where a value depends on stale neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ids
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from app.backends import huge_pages, llama_graph
from app.backends.cache import filled, fingerprint
from app.backends.checkpoint import Checkpoint, LlamaConfig
from app.errors import PairError
from app.model import Logits

BLOCK = 32  # tokens a KV block, fixed by the CPU plugin
MAX_WARM = 16  # the widest window the page offers
# bytes a weight and a cached value take; the processor may keep the latter in f32 all the same
BYTES = {"int8": (1 + 2 / llama_graph.GROUP, 2), "bf16": (2, 2), "f16": (2, 4), "f32": (4, 4)}
PREFILL = 256  # tokens scored at once while a prompt is read: bounds the activations' memory


class OpenVinoModel:
    """A compiled Llama; see `app.model.Model`."""

    windows: tuple[int, ...] | None = None
    max_sequences: int | None = None
    bit_identical = True

    def __init__(
        self,
        config: LlamaConfig,
        weights: Callable[[], Checkpoint],
        *,
        name: str,
        files: Ids[Path] = (),
        cache_dir: Path | None = None,
        dtype: str = "int8",
        threads: int | None = None,
        n_positions: int | None = None,
        kept_ids: NDArray[np.int64] | None = None,
    ) -> None:
        """weights: opens the checkpoint; not called where the graph made from `files` lies in `cache_dir`.
        kept_ids: the ids a trimmed output layer covers, [kept_ids]. Raises PairError."""
        if dtype not in llama_graph.DTYPES:
            raise PairError(
                f"The OpenVINO backend has no precision {dtype!r}; choose one of {', '.join(llama_graph.DTYPES)}."
            )
        self.name, self.dtype = name, dtype
        self.vocab_size = config.vocab_size
        self.n_positions = min(n_positions or config.n_positions, config.n_positions)
        self.num_parameters = config.num_parameters
        self._kept_ids = kept_ids
        core = ov.Core()
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        graph = _graph(core, weights, dtype, files, cache_dir)
        self._compiled = core.compile_model(graph, "CPU", compile_options(core, dtype, threads))
        self._cache_ports = [p for p in self._compiled.inputs if "cache." in p.get_any_name()]
        self._blocks = -(-(self.n_positions + 1) // BLOCK)  # one slot more for the dummy row
        self._free: list[OpenVinoSequence] = []
        self._warm_up()
        huge_pages.collapse()

    def _warm_up(self) -> None:
        """Score every window once: the plugin builds its kernels for a shape when it first meets it, and the arm that
        happened to be first would pay for both."""
        sequence = self.new_sequence()
        for width in range(2, min(MAX_WARM, self.n_positions) + 1):
            sequence.forward([0] * width, width)
            sequence.rollback(0)
        sequence.close()

    def memory(self) -> int:
        return int(self.num_parameters * BYTES[self.dtype][0])

    def new_sequence(self) -> OpenVinoSequence:
        # an infer request and its KV memory are dear to make and free to reuse
        return self._free.pop() if self._free else OpenVinoSequence(self)


class OpenVinoSequence:
    """One KV cache; see `app.model.Sequence`."""

    def __init__(self, model: OpenVinoModel) -> None:
        self._model = model
        self.length = 0
        self._request = model._compiled.create_infer_request()
        for port in model._cache_ports:
            tail = [port.get_partial_shape()[axis].get_length() for axis in (1, 2, 3)]
            shape = ov.Shape([model._blocks, *tail])
            self._request.set_tensor(port, ov.Tensor(port.get_element_type(), shape))
        # Inputs are set once and written in place; only those whose length changes are set again.
        self._past = np.zeros(1, np.int32)
        self._context = np.zeros((), np.int32)
        self._begins = np.zeros(2, np.int32)
        fixed = {
            "past_lens": self._past,
            "max_context_len": self._context,
            "subsequence_begins": self._begins,
            "block_indices_begins": np.array([0, model._blocks], np.int32),
            "block_indices": np.arange(model._blocks, dtype=np.int32),
        }
        for name, array in fixed.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self._fixed = fixed  # OpenVINO shares their memory: they must outlive the request
        self._by_length: dict[int, tuple[NDArray[np.int64], NDArray[np.int64], ov.Tensor, ov.Tensor]] = {}
        self._by_rows: dict[int, tuple[NDArray[np.int64], ov.Tensor]] = {}
        self._out = np.full((0, model.vocab_size), -np.inf, np.float32)

    def forward(self, token_ids: Ids[int], num_logits: int) -> Logits:
        count = len(token_ids)
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= self._model.n_positions, (self.length, count, self._model.n_positions)
        while count - num_logits >= PREFILL:
            self._pass(token_ids[:PREFILL], 1)
            token_ids, count = token_ids[PREFILL:], count - PREFILL
        return self._pass(token_ids, num_logits)

    def _pass(self, token_ids: Ids[int], num_logits: int) -> Logits:
        count = len(token_ids)
        width, rows = max(count, 2), max(num_logits, 2)
        ids, positions, ids_tensor, positions_tensor = self._inputs(width)
        ids[:count] = token_ids
        ids[count:] = 0
        positions[:] = np.arange(self.length, self.length + width)
        # the last num_logits real rows, and for a single one its neighbour as well
        logit_rows, rows_tensor = self._rows(rows)
        first = count - num_logits
        logit_rows[:] = np.arange(rows) + min(first, width - rows)
        self._past[0] = self.length
        self._context[...] = self.length + width
        self._begins[1] = width
        request = self._request
        request.set_tensor("input_ids", ids_tensor)
        request.set_tensor("position_ids", positions_tensor)
        request.set_tensor("logit_rows", rows_tensor)
        request.infer()
        self.length += count
        skip = first - int(logit_rows[0])
        logits: Logits = request.get_tensor("logits").data.reshape(rows, -1)[skip : skip + num_logits]
        return logits if self._model._kept_ids is None else self._scattered(logits)

    def _inputs(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64], ov.Tensor, ov.Tensor]:
        if width not in self._by_length:
            ids, positions = np.zeros(width, np.int64), np.zeros(width, np.int64)
            tensors = ov.Tensor(ids, shared_memory=True), ov.Tensor(positions, shared_memory=True)
            self._by_length[width] = (ids, positions, *tensors)
        return self._by_length[width]

    def _rows(self, rows: int) -> tuple[NDArray[np.int64], ov.Tensor]:
        if rows not in self._by_rows:
            array = np.zeros(rows, np.int64)
            self._by_rows[rows] = (array, ov.Tensor(array, shared_memory=True))
        return self._by_rows[rows]

    def _scattered(self, logits: Logits) -> Logits:
        """A trimmed output layer's logits over the whole vocabulary; -inf for ids it does not cover."""
        if len(self._out) < len(logits):
            self._out = np.full((len(logits), self._model.vocab_size), -np.inf, np.float32)
        out = self._out[: len(logits)]
        out[:, self._model._kept_ids] = logits
        return out

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def close(self) -> None:
        self.length = 0
        self._model._free.append(self)


def compile_options(core: ov.Core, dtype: str, threads: int | None) -> dict[str, str]:
    """Plugin settings: bf16 arithmetic where the processor has it, f32 elsewhere and for dtype f32."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = "bf16" if has_bf16 and dtype in ("int8", "bf16") else "f32"
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(llama_graph.GROUP),
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    return options


def _graph(
    core: ov.Core, weights: Callable[[], Checkpoint], dtype: str, files: Ids[Path], cache_dir: Path | None
) -> ov.Model:
    """The paged graph; the stateful one it comes from, weights quantised, is kept on disk.

    Not the compiled blob: the plugin cannot import one with paged attention (its head sizes are lost on export).
    """
    if cache_dir is None:
        return llama_graph.paged(llama_graph.stateful(weights(), dtype))
    source = Path(llama_graph.__file__).read_text(encoding="utf-8")
    key = fingerprint(files, ov.get_version(), source, dtype)

    def write(directory: Path) -> None:
        ov.save_model(llama_graph.stateful(weights(), dtype), directory / "graph.xml", compress_to_fp16=False)

    return llama_graph.paged(core.read_model(filled(cache_dir / f"graph-{key}", write) / "graph.xml"))
