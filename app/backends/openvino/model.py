"""The default engine: any Llama checkpoint on the CPU through OpenVINO, with free rollback and bit identity.

Bit identity: the plugin scores a single row with another kernel than several, so a single row of a target is always
scored as two, the second a dummy whose cache slot is overwritten before anything attends to it; the output layer too
sees two rows at least. The KV cache is never u8 (the plugin's default), where a value depends on stale neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Ids
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from app.backends import huge_pages, rows
from app.backends.checkpoints import int8
from app.backends.checkpoints.checkpoint import Checkpoint
from app.backends.checkpoints.config import LlamaConfig
from app.backends.openvino import weights as weight_kinds
from app.backends.openvino.kept_graph import paged_graph
from app.backends.openvino.programs import Programs, of_width
from app.engine.model import Logits, States
from app.errors import PairError
from app.pairs.memory import free_memory

BLOCK = 32  # tokens a KV block, fixed by the CPU plugin
WEIGHT_BYTES = {"int8": 1 + 2 / int8.GROUP, "bf16": 2, "f16": 2, "f32": 4}
PREFILL = 256  # tokens scored at once while a prompt is read: bounds the activations' memory
WIDTHS = (2, 3, 4, 5, 6, 8, 12, 16)
"""Rows a pass may be compiled for; a window between two of them runs on the wider."""
FEW_WIDTHS = {"bf16": (4, 8, 16), "f32": (2, 3, 4, 8, 16)}
"""The same for a sequence whose windows are many, by the arithmetic. Each program costs a second and a copy of the
weights, and a pass after one of another program takes up to a tenth longer: its weights have left the caches. In 32
bits rows cost more than that: two take 24 ms, three 29, four 35."""
COPY = 300_000_000
"""Bytes of weights up to which they are copied for a program of a fixed width. Rows of another number than the pass
before cost the plugin some 4 ms over 30 layers: more than half the pass of a small model, little of a large one's."""
COPIES = 12
"""Times the weights that must be free for that."""
KEPT = 4_000_000
"""Bytes of weights from which programs are kept on disk; of less, one is compiled in a fifth of a second."""
LONGEST = 2048
"""Positions of context that a program is made ready for at once. Whenever a context grows into a block beyond all that
a program has met, the plugin makes a hundred small kernels anew, for 6 ms: twice a draft's pass, and every program that
a run goes through pays for itself, every 32 tokens of the first texts."""
SPARE = 4
"""Times the weights that must be free still where a program is made before anyone asks for it."""


class OpenVinoModel:
    """A compiled Llama; see `app.engine.model.Model`.

    One program takes any number of rows and reads prompts. The windows a sequence is made for run on programs of a
    fixed width, compiled when first asked for: the plugin then lays out every tensor once, not at each pass of another
    shape. All of those give the same bits, and so does the first for any number of rows, but not the first and the
    others.
    """

    windows: tuple[int, ...] | None = None
    max_sequences: int | None = None
    bit_identical = True
    row_difference: float | None = None

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
        states: bool = False,
        drafts: bool = False,
    ) -> None:
        """weights: opens the checkpoint; not called where the graph made from `files` lies in `cache_dir`.
        kept_ids: the ids a trimmed output layer covers, [kept_ids]. states: whether its caches give states. drafts:
        it only drafts, so a single row need not have the bits it has among others. Raises PairError."""
        if dtype not in weight_kinds.DTYPES:
            raise PairError(
                f"The OpenVINO backend has no precision {dtype!r}; choose one of {', '.join(weight_kinds.DTYPES)}."
            )
        self.name, self.dtype = name, dtype
        self.vocab_size = config.vocab_size
        self.n_positions = min(n_positions or config.n_positions, config.n_positions)
        self.num_parameters = config.num_parameters
        self.kept_ids = kept_ids
        self.hidden_size, self.reads_states = config.hidden_size, config.conditioned
        self.state_width = config.hidden_size if states else None
        self._core = ov.Core()
        self.device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME"))
        self._graph, self._folder = paged_graph(self._core, weights, dtype, states, files, cache_dir)
        self._size: int = sum(
            each.get_byte_size() for each in self._graph.get_ops() if each.get_type_name() == "Constant"
        )
        self._options = compile_options(self._core, dtype, threads)
        precision = self._options["INFERENCE_PRECISION_HINT"]
        self._few = FEW_WIDTHS[precision]
        # in 32 bits a draft's pass of one row takes a fifth less time than one of two
        self._single = 1 if drafts and precision == "f32" else WIDTHS[0]
        self.blocks = -(-(self.n_positions + WIDTHS[-1]) // BLOCK)  # slots beyond the context are for dummy rows
        free = free_memory()
        self._fixed = self.memory() <= COPY and (free is None or free >= COPIES * self.memory())
        self._free: list[OpenVinoSequence] = []
        self.programs: dict[int | None, ov.CompiledModel] = {}
        """Compiled graphs by the rows of a pass; None: any number."""
        # a program copies its weights into a layout of its own when it first runs, and reads the file no more
        kept = (
            self._fixed
            and self._size >= KEPT
            and self._folder
            and cache_dir
            and self._folder.parent == cache_dir.resolve()
        )
        self._compiler = Programs(
            self._core, self._options, config, cache_dir if kept else None, str(self._folder and self._folder.name)
        )
        with huge_pages.given_back(self._folder, self._compiler.give_back):
            self.programs[None] = self._program(lambda: self._graph, "any number of rows")
            self._look()
        if not self._fixed:
            self._warm_up(range(2, min(WIDTHS[-1], self.n_positions - 1) + 1), {})
            self.row_difference = rows.difference(self)  # wide matrices are split by their rows on some processors
            self.bit_identical = self.row_difference == 0
        huge_pages.trim()
        huge_pages.collapse()

    def _program(self, graph: Callable[[], ov.Model], *key: str) -> ov.CompiledModel:
        """The graph, compiled. Raises PairError where this processor cannot run it: paged attention is new on some."""
        try:
            return self._compiler.compiled(graph, *key)
        except RuntimeError as error:
            raise self._unfit(str(error).strip().splitlines()[-1]) from None

    def _look(self) -> None:
        """Score two tokens, since what compiles may still not run. Raises PairError."""
        sequence = OpenVinoSequence(self)
        try:
            logits = sequence.forward([0, 0], 1)
        except RuntimeError as error:
            raise self._unfit(str(error).strip().splitlines()[-1]) from None
        if not np.isfinite(logits).all():
            raise self._unfit("its logits are no numbers")
        sequence.close()

    def _unfit(self, why: str) -> PairError:
        version = ov.get_version().split("-")[0]
        return PairError(
            f"OpenVINO {version} cannot run {self.name} on this processor, {self.device} ({why}); start with --backend "
            "llamacpp or --backend torch."
        )

    def memory(self) -> int:
        return self._size

    def new_sequence(self, windows: Ids[int] = ()) -> OpenVinoSequence:
        self._make(self._missing(windows))
        # infer requests and their KV memory are dear to make and free to reuse
        sequence = self._free.pop() if self._free else OpenVinoSequence(self)
        sequence.widths = self._widths(windows) if self._fixed else {}
        return sequence

    def prepare(self, windows: Ids[int]) -> Iterator[None]:
        """Make the programs that a sequence for these windows would make first, one a step."""
        for width in self._missing(windows):
            free = free_memory()
            if free is not None and free < SPARE * self.memory():
                return
            if width not in self.programs:
                self._make([width])
                yield

    def _missing(self, windows: Ids[int]) -> list[int]:
        widths = set(self._widths(windows).values()) if self._fixed else set()
        return sorted(widths - self.programs.keys())

    def _make(self, widths: Ids[int]) -> None:
        """The programs of these widths; two at a time, since most of making one runs on one processor."""
        if not widths:
            return

        def program(width: int) -> ov.CompiledModel:
            before = {"before": [width, 1, 2 * self.hidden_size]} if self.reads_states else {}
            key = f"{width} rows, {self.blocks} blocks"
            return self._program(lambda: of_width(self._graph, width, self.blocks, before), key)

        def made(pool: ThreadPoolExecutor) -> Iterator[int]:
            for width, self.programs[width] in zip(widths, pool.map(program, widths), strict=True):
                yield width

        with huge_pages.given_back(self._folder, self._compiler.give_back), ThreadPoolExecutor(2) as pool:
            self._warm_up(made(pool), {width: width for width in widths})
        huge_pages.collapse()

    def _widths(self, windows: Ids[int]) -> dict[int, int]:
        """By rows of a pass of at most these windows, those of the program it runs on."""
        offered = WIDTHS if len(windows) <= 3 else self._few
        if self._single == 1:  # its programs are small, and it reads any number of rows up to the window
            windows, offered = range(1, max(windows, default=0) + 1), WIDTHS
        fitting = {next((width for width in offered if width >= window), 0) for window in windows if window > 1}
        wider = sorted(width for width in fitting if 0 < width < self.n_positions)
        widths = {rows: next(width for width in wider if width >= rows) for rows in range(1, max(wider, default=0) + 1)}
        return widths | ({1: self._single} if 1 in windows and self.n_positions > WIDTHS[0] else {})

    def _warm_up(self, counts: Iterable[int], widths: dict[int, int]) -> None:
        """Score as many rows once, by the programs of `widths`: the plugin builds its kernels when it first meets a
        shape, and the arm that happened to be first would pay for both."""
        sequence = OpenVinoSequence(self)
        sequence.widths, sequence.context = widths, min(LONGEST, self.n_positions)
        sequence.forward([0], 1)
        for count in counts:
            sequence.forward([0] * count, count)
            sequence.rollback(1)
        sequence.context = 0
        sequence.close()


class OpenVinoSequence:
    """One KV cache; see `app.engine.model.Sequence`. widths: by rows of a pass, those of its program; None for any
    other. context: the length of the context that the plugin is told at least."""

    def __init__(self, model: OpenVinoModel) -> None:
        self._model = model
        self.length = self.context = 0
        self.widths: dict[int, int] = {}
        self._caches: dict[str, ov.Tensor] = {}
        for port in model.programs[None].inputs:
            name = port.get_any_name()
            if "cache." in name:
                tail = [port.get_partial_shape()[axis].get_length() for axis in (1, 2, 3)]
                self._caches[name] = ov.Tensor(port.get_element_type(), ov.Shape([model.blocks, *tail]))
        self._passes: dict[int | None, _Pass] = {}
        self._states: list[States] = []

    @property
    def states(self) -> States:
        assert self._model.state_width is not None, "the model was not loaded to give states"
        return self._states[0] if len(self._states) == 1 else np.concatenate(self._states)

    def forward(self, token_ids: Ids[int], num_logits: int, before: States | None = None) -> Logits:
        count = len(token_ids)
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= self._model.n_positions, (self.length, count, self._model.n_positions)
        # a prompt, however short, is read by the same program whatever windows follow
        width = self.widths.get(count) if self.length else None
        if self._model.reads_states and before is None:
            before = np.zeros((count, 2 * self._model.hidden_size), np.float32)
        self._states = []
        while count - num_logits >= PREFILL:
            self._score(token_ids[:PREFILL], 1, width, before)
            token_ids, count = token_ids[PREFILL:], count - PREFILL
            before = None if before is None else before[PREFILL:]
        return self._score(token_ids, num_logits, width, before)

    def _score(self, token_ids: Ids[int], num_logits: int, width: int | None, before: States | None) -> Logits:
        if width not in self._passes:
            self._passes[width] = _Pass(self._model.programs[width], self._caches, width, self._model.blocks)
        program = self._passes[width]
        if before is not None:
            program.read(before[: len(token_ids)])
        logits = program.score(token_ids, self.length, num_logits, self.context)
        if self._model.state_width is not None:
            self._states.append(program.states(len(token_ids)).copy())  # the next pass writes where they lie
        self.length += len(token_ids)
        return logits

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def close(self) -> None:
        self.length = 0
        self._model._free.append(self)


class _Pass:
    """A program over one KV cache. Inputs are written in place, and set again only where their length changes."""

    def __init__(self, program: ov.CompiledModel, caches: dict[str, ov.Tensor], width: int | None, blocks: int) -> None:
        self._request, self._width = program.create_infer_request(), width
        for name, cache in caches.items():
            self._request.set_tensor(name, cache)
        self._past = np.zeros(1, np.int32)
        self._context = np.zeros((), np.int32)
        self._begins = np.zeros(2, np.int32)
        fixed = {
            "past_lens": self._past,
            "max_context_len": self._context,
            "subsequence_begins": self._begins,
            "block_indices_begins": np.array([0, blocks], np.int32),
            "block_indices": np.arange(blocks, dtype=np.int32),
        }
        for name, array in fixed.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self._fixed = fixed  # OpenVINO shares their memory: they must outlive the request
        self._ids, self._positions, self._logit_rows = (np.zeros(0, np.int64) for _ in range(3))
        self._before = np.zeros((0, 1, 0), np.float32)

    def read(self, before: States) -> None:
        """What the next pass reads beside its tokens, [n, 2 * width]."""
        rows = self._width or max(len(before), 2)
        if len(self._before) != rows:
            self._before = np.zeros((rows, 1, before.shape[1]), np.float32)
            self._request.set_tensor("before", ov.Tensor(self._before, shared_memory=True))
        self._before[: len(before), 0] = before
        self._before[len(before) :] = 0

    def states(self, count: int) -> States:
        """The last pass's states [count, width], until the next one."""
        hidden: States = self._request.get_tensor("hidden").data
        return hidden.reshape(len(hidden), -1)[:count]

    def score(self, token_ids: Ids[int], past: int, num_logits: int, context: int) -> Logits:
        """Logits [num_logits, rows of the output layer] of the last ids, `past` tokens being in the cache. context: at
        least so long a one is announced."""
        count = len(token_ids)
        # a dummy row's place in the cache is written again before anything attends to it
        width = self._width or max(count, 2)
        rows = self._width or max(num_logits, 2)
        self._shape(width, rows)
        self._ids[:count] = token_ids
        self._ids[count:] = 0
        self._positions[:] = np.arange(past, past + width)
        # the last num_logits real rows, and for a single one its neighbour as well
        first = count - num_logits
        begin = min(first, width - rows)
        self._logit_rows[:] = np.arange(begin, begin + rows)
        self._past[0] = past
        self._context[...] = max(past + width, context)
        self._begins[1] = width
        self._request.infer(share_outputs=True)
        logits: Logits = self._request.get_tensor("logits").data.reshape(rows, -1)
        return logits[first - begin : first - begin + num_logits]

    def _shape(self, width: int, rows: int) -> None:
        if len(self._ids) != width:
            self._ids, self._positions = self._input("input_ids", width), self._input("position_ids", width)
        if len(self._logit_rows) != rows:
            self._logit_rows = self._input("logit_rows", rows)

    def _input(self, name: str, length: int) -> NDArray[np.int64]:
        array = np.zeros(length, np.int64)
        self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        return array


def arithmetic(core: ov.Core, dtype: str) -> str:
    """bf16 for int8 and bf16 where the processor has it, else f32; the cache is kept in the same."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if has_bf16 and dtype in ("int8", "bf16") else "f32"


def cached_value_bytes(dtype: str) -> int:
    """What a value of the KV cache takes on this processor."""
    return 2 if arithmetic(ov.Core(), dtype) == "bf16" else 4


def compile_options(core: ov.Core, dtype: str, threads: int | None) -> dict[str, str]:
    """The plugin's settings."""
    precision = arithmetic(core, dtype)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(int8.GROUP),
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    return options
