"""Compiled programs, kept on disk: the plugin rewrites a graph for a second or more, and from what it exports then a
program is there in a third of that.

It cannot import what it exports of a graph with paged attention, whose head sizes it keeps beside the graph and not in
it: here an operation of ours stands in the exported text instead, which makes the plugin's own with its sizes. The
weights of all programs of a model are the same bytes and lie in one file; a program adds its text and small constants.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import re
import struct
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openvino as ov
from openvino.op import _PagedAttentionExtension

from app.backends.checkpoints.cache import MANIFEST, fingerprint, stored, usable
from app.backends.checkpoints.config import LlamaConfig

_PAGED = b'type="PagedAttentionExtension"'
_SIZED = b'type="AttentionOfKnownSizes"'
_CONSTANT = re.compile(rb' offset="(\d+)"([^>]*?) size="(\d+)"')
_WEIGHT = 4096  # bytes of a constant that is one of the weights; smaller ones may differ with the width
_HEADER = struct.Struct("<6Q")
"""Of what the plugin exports: where its settings, constants and text begin, and how long they are; from here on."""
_ROOM = 1 << 18  # bytes by which another program's text and small constants may be the longer
_EXPORT = threading.Lock()
"""The engine's cache sets the process's locale to C while it writes and puts back what it found: of two at once, the
later would find, and leave, C, and Python would read and write ASCII from then on."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Made:
    """A program, and what the engine exported of it: where in `file` the plugin's part begins, its header, and all
    constants begin and end; and the text."""

    program: ov.CompiledModel
    file: Path
    text: bytes
    begin: int
    header: int
    constants: int
    end: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """The file of weights: as in `_Made`, then where a program's own constants and its text have room, and the places
    and bytes of the weights, in order."""

    begin: int
    header: int
    constants: int
    own: int
    text: int
    weights: list[tuple[int, int]]


class Programs:
    """What compiles a model's graphs, or imports what an earlier start compiled.

    What is kept depends on the processor too; it is a help, not a need: where nothing can be kept, or what was kept is
    damaged or refused, graphs are compiled.
    """

    def __init__(
        self, core: ov.Core, options: dict[str, str], config: LlamaConfig, cache_dir: Path | None, *key: str
    ) -> None:
        """cache_dir: where programs are kept; None: nowhere. key: what the graphs are made from."""
        self._core, self._options = core, options
        self._cache_dir = cache_dir
        processor = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        source = Path(__file__).read_text(encoding="utf-8")
        self._key = (*key, ov.get_version(), processor, json.dumps(options), source)
        self._weights: Path | None = None
        self._lock = threading.Lock()
        self._maps: list[tuple[mmap.mmap, int]] = []
        """The file of weights, as each imported program reads it, and where its own constants begin."""
        if cache_dir is not None:
            core.add_extension(_attention(config))

    def compiled(self, graph: Callable[[], ov.Model], *key: str) -> ov.CompiledModel:
        """The program of `graph`, which `key` tells from the model's others. Raises RuntimeError where this processor
        cannot run it."""
        if self._cache_dir is None:
            return self._compile(graph())
        made: list[_Made] = []
        try:
            weights = self._cache_dir / f"weights-{fingerprint((), *self._key)}"
            with self._lock:
                # looked at once; but someone may have cleared it away since
                if not ((self._weights and (weights / MANIFEST).exists()) or usable(weights)):
                    stored(weights, lambda folder: self._keep_weights(folder, graph(), made))
                self._weights = weights.resolve()
            beside = (weights / MANIFEST).read_text(encoding="ascii")
            directory = self._cache_dir / f"program-{fingerprint((), *self._key, beside, *key)}"
            if not made and usable(directory):
                try:
                    return self._imported(directory)
                except (RuntimeError, OSError, ValueError) as error:
                    _LOG.warning("%s cannot be used (%s); it is made again", directory, str(error).strip())
            stored(directory, lambda folder: self._keep(folder, graph, made))
        except OSError:  # nothing could be kept, which `stored` has said
            pass
        return made[0].program if made else self._compile(graph())

    def give_back(self) -> None:
        """Take the pages of the file of weights out of this process's memory, see `huge_pages.give_back`."""
        for mapped, own in tuple(self._maps):
            if hasattr(mmap, "MADV_DONTNEED"):
                # but what was written: the header and all from `own` on
                mapped.madvise(mmap.MADV_DONTNEED, mmap.PAGESIZE, own - mmap.PAGESIZE)

    def _compile(self, graph: ov.Model, **options: Any) -> ov.CompiledModel:
        return self._core.compile_model(graph, "CPU", self._options | options)

    def _exported(self, graph: ov.Model, directory: Path) -> _Made:
        """The program of `graph`, and what the plugin exports of it, a file in `directory`. Raises OSError."""
        texts: list[bytes] = []

        def told(text: bytes) -> bytes:
            texts.append(text)
            return text

        try:
            # by the engine's own cache, which writes to a file: the other way takes the weights three times in memory
            with _EXPORT:
                program = self._compile(graph, CACHE_DIR=str(directory), CACHE_ENCRYPTION_CALLBACKS=[told, told])
        except RuntimeError as error:
            raise OSError(errno.EIO, str(error).strip().splitlines()[-1]) from None
        files = list(directory.glob("*.blob"))
        if len(files) != 1 or not texts:
            raise OSError(errno.EIO, "the engine exports nothing")
        with files[0].open("rb") as exported:
            head = exported.read(1 << 16)
        begin = head.find(b"/>\n") + 3
        header = head.rfind(b"<?xml", begin, head.find(b"<cnndata>", begin)) - _HEADER.size
        if begin < 3 or header < begin:
            raise OSError(errno.EIO, "the engine exports in another form")
        _, _, constants, size, _, _ = _HEADER.unpack_from(head, header)
        if files[0].stat().st_size < header + constants + size:
            raise OSError(errno.EIO, "the engine exported a part only")
        text = texts.pop().replace(_PAGED, _SIZED)
        return _Made(program, files[0], text, begin, header, header + constants, header + constants + size)

    def _keep_weights(self, directory: Path, graph: ov.Model, made: list[_Made]) -> None:
        """The constants of `graph`, and behind them room for what other programs have of their own."""
        first = self._exported(graph, directory)
        made.append(first)
        own = -(-first.end // mmap.PAGESIZE) * mmap.PAGESIZE
        text = own + sum(size for _, size in _constants(first.text) if size < _WEIGHT) + _ROOM
        first.file.rename(directory / "exported")
        with (directory / "exported").open("r+b") as exported:
            exported.truncate(first.end)
            exported.truncate(text + len(first.text) + _ROOM)
        weights = [each for each in _constants(first.text) if each[1] >= _WEIGHT]
        layout = _Layout(first.begin, first.header, first.constants, own, text, weights)
        (directory / "layout.json").write_text(json.dumps(asdict(layout)), encoding="ascii")

    def _keep(self, directory: Path, graph: Callable[[], ov.Model], made: list[_Made]) -> None:
        """A program's text, its constants found among the weights that are kept; and those that are its own."""
        layout = self._layout()
        if made:
            program, ours = made[0], self._file
        else:
            program = self._exported(graph(), directory)
            made.append(program)
            ours = program.file
        weights = iter(layout.weights)
        own = bytearray()

        def moved(match: re.Match[bytes]) -> bytes:
            at, size = program.constants + int(match[1]), int(match[3])
            if size < _WEIGHT:
                place = layout.own - layout.constants + len(own)
                file.seek(at)
                own.extend(file.read(size))
            else:
                place, length = next(weights, (0, 0))
                if length != size or not _same(kept, layout.constants + place, file, at, size):
                    raise OSError(errno.EIO, "its weights are laid out in another way")
            return b' offset="%d"%b size="%d"' % (place, match[2], size)

        # not mapped, whoever gives pages back
        with self._file.open("rb") as kept, ours.open("rb") as file:
            text = _CONSTANT.sub(moved, program.text)
        if layout.own + len(own) > layout.text or layout.text + len(text) > self._file.stat().st_size:
            raise OSError(errno.EFBIG, "it is much longer than the others")
        program.file.unlink(missing_ok=True)
        (directory / "own").write_bytes(own)
        (directory / "text").write_bytes(text)

    def _imported(self, directory: Path) -> ov.CompiledModel:
        own, texts = (directory / "own").read_bytes(), [(directory / "text").read_bytes()]
        layout = self._layout()
        with self._file.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._maps.append((mapped, layout.own))
        content = np.frombuffer(mapped, np.uint8)  # what is written stays in this process's memory
        at = layout.text - layout.header
        settings, settings_size, constants, *_ = _HEADER.unpack_from(content.data, layout.header)
        room = len(content) - layout.text
        _HEADER.pack_into(content.data, layout.header, settings, settings_size, constants, at - constants, at, room)
        content[layout.own : layout.own + len(own)] = np.frombuffer(own, np.uint8)
        told = [lambda _: b" ", lambda _: texts.pop().ljust(room)]  # the engine keeps them for ever
        tensor = ov.Tensor(content[layout.begin :], shared_memory=True)
        return self._core.import_model(tensor, "CPU", self._options | {"CACHE_ENCRYPTION_CALLBACKS": told})

    @property
    def _file(self) -> Path:
        assert self._weights is not None
        return self._weights / "exported"

    def _layout(self) -> _Layout:
        """Raises OSError."""
        try:
            return _Layout(**json.loads(self._file.with_name("layout.json").read_text(encoding="ascii")))
        except (ValueError, TypeError) as error:
            raise OSError(errno.EIO, str(error)) from None


def of_width(graph: ov.Model, width: int, blocks: int, more: dict[str, list[int]]) -> ov.Model:
    """The paged graph for passes of `width` rows, all of them scored. more: shapes of inputs that not all have."""
    counted = {name: [width] for name in ("input_ids", "position_ids", "logit_rows")}
    fixed = graph.clone()
    fixed.reshape(
        counted
        | more
        | {
            "past_lens": [1],
            "max_context_len": [],
            "subsequence_begins": [2],
            "block_indices_begins": [2],
            "block_indices": [blocks],
        }
    )
    return fixed


def _attention(config: LlamaConfig) -> type[ov.Op]:
    """The operation that stands for the plugin's in a text, and makes it."""
    sizes = {
        "num_k_heads": config.num_kv_heads,
        "k_head_size": config.head_size,
        "num_v_heads": config.num_kv_heads,
        "v_head_size": config.head_size,
    }

    class AttentionOfKnownSizes(ov.Op):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(self)
            self._inputs: list[Any] = []

        def set_arguments(self, inputs: list[Any]) -> None:
            self._inputs = list(inputs)  # not its own: then it would be part of the graph

        def constructor_validate_and_infer_types(self) -> None:
            """It has no types."""

        def visit_attributes(self, _: Any) -> bool:
            return True

        def outputs(self) -> list[Any]:
            inputs, self._inputs = self._inputs, []  # the engine never frees an operation written in Python
            node = _PagedAttentionExtension(inputs)
            for name, size in sizes.items():
                node.get_rt_info()[name] = size
            return list(node.outputs())

    return AttentionOfKnownSizes


def _constants(text: bytes) -> list[tuple[int, int]]:
    """(place, bytes) of each constant."""
    return [(int(match[1]), int(match[3])) for match in _CONSTANT.finditer(text)]


def _same(one: BinaryIO, at: int, other: BinaryIO, begin: int, size: int) -> bool:
    """Whether two files hold the same `size` bytes at these places."""
    one.seek(at)
    other.seek(begin)
    pieces = (min(_ROOM, size - done) for done in range(0, size, _ROOM))
    return all(len(read := one.read(piece)) == piece and read == other.read(piece) for piece in pieces)
