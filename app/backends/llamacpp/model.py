"""Any GGUF as llama.cpp runs it, on the device it was compiled for: one context a KV cache, logits of every row asked
for, rollback by forgetting positions.

Its kernels differ with the number of rows, so identical bits are not promised but found out at load.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence as Ids
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.backends import huge_pages, rows
from app.backends.checkpoints.checkpoint import no_numbers
from app.backends.checkpoints.config import LlamaConfig
from app.backends.checkpoints.gguf_file import hugging_face_name
from app.backends.llamacpp.library import complaint, damaged_tensor, library
from app.engine.model import Logits
from app.errors import PairError, RequestError

PREFILL = 256  # tokens given to it at once
CACHED_VALUE_BYTES = 2  # its caches are f16


class LlamaCppModel:
    """A GGUF in llama.cpp; see `app.engine.model.Model`."""

    windows: tuple[int, ...] | None = None
    max_sequences: int | None = None
    kept_ids: NDArray[np.int64] | None = None
    state_width: int | None = None
    reads_states = False

    def __init__(
        self,
        path: Path,
        config: LlamaConfig,
        *,
        name: str,
        dtype: str,
        size: int,
        threads: int | None = None,
        n_positions: int | None = None,
    ) -> None:
        """path: the file, of a split one the first part; dtype, size: what most of it is stored as, and its bytes.
        Raises PairError."""
        llama = library()
        self.name, self.dtype = name, dtype
        self.vocab_size, self.num_parameters = config.vocab_size, config.num_parameters
        self.n_positions = min(n_positions or config.n_positions, config.n_positions)
        self.threads = threads or os.cpu_count() or 1
        options = llama.llama_model_default_params()
        # into memory of its own: mapped, the pages of what it repacks for its kernels would be held twice
        options.load_mode = llama.LLAMA_LOAD_MODE_NONE
        options.check_tensors = True
        self.handle = llama.llama_model_load_from_file(os.fsencode(path), options)
        if not self.handle:
            if (damaged := damaged_tensor()) is not None:
                raise no_numbers(hugging_face_name(damaged))
            raise PairError(
                f"llama.cpp cannot load {path.name} ({complaint('no reason given')}); choose another backend."
            )
        self.contexts: list[Any] = []
        weakref.finalize(self, _release, llama, self.handle, self.contexts)
        offload = bool(llama.llama_supports_gpu_offload())
        self.device = "llama.cpp, layers on the GPU" if offload else f"llama.cpp, {self.threads} threads"
        self._size = size
        self._free: list[LlamaCppSequence] = []
        if not offload:
            huge_pages.collapse()
        self.row_difference = rows.difference(self)
        self.bit_identical = self.row_difference == 0

    def memory(self) -> int:
        return self._size

    def new_sequence(self, windows: Ids[int] = ()) -> LlamaCppSequence:
        return self._free.pop() if self._free else LlamaCppSequence(self)

    def free(self, sequence: LlamaCppSequence) -> None:
        """Keep a closed sequence: its buffers are dear to make."""
        self._free.append(sequence)


class LlamaCppSequence:
    """One KV cache, a context of llama.cpp's; see `app.engine.model.KVCache`."""

    def __init__(self, model: LlamaCppModel) -> None:
        self._model, self._llama = model, library()
        llama = self._llama
        options = llama.llama_context_default_params()
        options.n_ctx = model.n_positions
        options.n_batch = options.n_ubatch = min(PREFILL, model.n_positions)
        options.n_threads = options.n_threads_batch = model.threads
        options.no_perf = True
        self._context = llama.llama_init_from_model(model.handle, options)
        if not self._context:
            raise RequestError(f"llama.cpp has no room for a cache ({complaint('no reason given')}); free some memory.")
        model.contexts.append(self._context)
        self._memory = llama.llama_get_memory(self._context)
        self._batch: Any = llama.llama_batch_init(PREFILL, 0, 1)
        weakref.finalize(self, llama.llama_batch_free, self._batch)
        arrays = (self._batch.token, self._batch.pos, self._batch.logits, self._batch.n_seq_id)
        self._tokens, self._positions, self._scored, owners = (
            np.ctypeslib.as_array(each, (PREFILL,)) for each in arrays
        )
        owners[:] = 1
        for row in range(PREFILL):
            self._batch.seq_id[row][0] = 0
        self.length = 0

    def forward(self, token_ids: Ids[int], num_logits: int) -> Logits:
        count = len(token_ids)
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= self._model.n_positions, (self.length, count, self._model.n_positions)
        parts: list[Logits] = []
        for begin in range(0, count, PREFILL):
            part = token_ids[begin : begin + PREFILL]
            rows = min(len(part), max(0, num_logits - (count - begin - len(part))))
            logits = self._decode(part, max(rows, 1))  # at least one: the library gives nothing back for none
            if rows:
                parts.append(logits if rows == num_logits else logits.copy())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _decode(self, token_ids: Ids[int], rows: int) -> Logits:
        """Logits [rows, vocabulary] of the last rows; they lie in the library until the next call."""
        count = len(token_ids)
        self._batch.n_tokens = count
        self._tokens[:count] = token_ids
        self._positions[:count] = np.arange(self.length, self.length + count)
        self._scored[:count] = 0
        self._scored[count - rows : count] = 1
        code = self._llama.llama_decode(self._context, self._batch)
        if code:
            raise RequestError(f"llama.cpp failed ({complaint(f'code {code}')}); run it again.")
        self.length += count
        logits = self._llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (rows, self._model.vocab_size))

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        if length < self.length:
            self._llama.llama_memory_seq_rm(self._memory, 0, length, -1)
        self.length = length

    def close(self) -> None:
        self.rollback(0)
        self._model.free(self)


def _release(llama: Any, handle: Any, contexts: list[Any]) -> None:
    """Free contexts before the weights they read."""
    for context in contexts:
        llama.llama_free(context)
    llama.llama_model_free(handle)
