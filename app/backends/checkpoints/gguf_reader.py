"""The bytes of one GGUF file: its metadata, and where its tensors lie.

Nothing in the file is believed before it is checked against the file's size, so a damaged or hostile one ends in a
sentence at once. The package `gguf` reads the same form, but holds every string of a vocabulary as an array (seconds,
and gigabytes for a count that is not true); its names of types and its arithmetic of their blocks are used here.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints.gguf_fields import check_kinds
from app.errors import PairError
from app.wording import shown

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TEXT_LIMIT = 64 << 20  # bytes of one string
_PIECE = 4 << 20  # values decoded at once
_DEPTH = 4  # of arrays in arrays
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor: its shape, slowest axis first; the name of its type; where its bytes begin and how many there are."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    size: int


class GgufFile:
    """`fields`: the metadata, arrays of numbers as NumPy's, arrays of strings as lists. `tensors`: by name."""

    def __init__(self, path: Path) -> None:
        """Raises PairError for what is no whole GGUF file."""
        self.path = path
        try:
            with path.open("rb") as file:
                head = file.read(len(LFS_POINTER))
                if head == LFS_POINTER:
                    raise PairError(
                        f"{path} is a Git LFS pointer, not the model; run git lfs pull in its folder, or fetch the "
                        "file."
                    )
                if not head:
                    raise PairError(f"{path} is empty; fetch it again.")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    cursor = _Cursor(data)
                    self.fields, self.tensors = _read(cursor, path.name)
        except OSError as error:
            raise PairError(
                f"{path} cannot be read ({error.strerror or error}); check the path and its rights."
            ) from None
        except (ValueError, struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
            raise PairError(
                f"{path} is damaged or no GGUF file ({str(error) or type(error).__name__}); fetch it again."
            ) from None

    def raw(self, tensor: StoredTensor) -> NDArray[np.uint8]:
        """The tensor's bytes as they are stored."""
        return np.memmap(self.path, np.uint8, "r", tensor.offset, (tensor.size,))

    def dequantised(self, tensor: StoredTensor) -> NDArray[np.float32]:
        """The tensor's values. Raises PairError for a type that nothing here reads."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        kind = GGMLQuantizationType[tensor.kind]
        raw = self.raw(tensor)
        plain = {"F32": np.float32, "F16": np.float16, "F64": np.float64}.get(tensor.kind)
        if plain is not None:
            with np.errstate(over="ignore"):
                return np.array(raw.view(plain).reshape(tensor.shape), np.float32)
        block, size = GGML_QUANT_SIZES[kind]
        values = np.empty(tensor.shape, np.float32)
        rows, into = raw.reshape(-1, tensor.shape[-1] // block * size), values.reshape(-1, tensor.shape[-1])
        step = max(1, _PIECE // tensor.shape[-1])  # its arithmetic holds several times what it works on
        for begin in range(0, len(rows), step):
            into[begin : begin + step] = dequantize(rows[begin : begin + step], kind)
        return values


def readable(kind: str) -> bool:
    """Whether tensors of this type can be read."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    if kind in ("F32", "F16", "F64"):
        return True
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]), np.uint8), GGMLQuantizationType[kind])
    except NotImplementedError:
        return False
    return True


class _Cursor:
    """Reads on through a file, and never beyond it."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise ValueError(f"{size} bytes are announced and {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        size = self.number("Q")
        if size > _TEXT_LIMIT:
            raise ValueError(f"a text of {size} bytes is announced")
        return self.take(size).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(depth)
        return self.number(_SCALARS[kind])

    def _array(self, depth: int) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            form = np.dtype(_SCALARS[kind]).newbyteorder("<")
            return np.frombuffer(self.take(count * form.itemsize), form)
        least = 8 if kind == _STRING else 12  # bytes an element takes at least
        if depth >= _DEPTH or count * least > len(self.data) - self.at:
            raise ValueError(f"an array of {count} elements is announced")
        return [self.value(kind, depth + 1) for _ in range(count)]


def _read(cursor: _Cursor, file: str) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if cursor.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}, or its bytes are in big-endian order")
    num_tensors, num_fields = cursor.number("Q"), cursor.number("Q")
    if max(num_tensors, num_fields) > len(cursor.data):
        raise ValueError(f"{num_tensors} tensors are announced")
    fields: dict[str, Any] = {}
    for _ in range(num_fields):
        name = cursor.text()
        if name in fields:
            raise ValueError(f"it says {shown(name)} twice")
        fields[name] = cursor.value(cursor.number("I"))
    check_kinds(fields)
    infos, numbers = [], {int(kind) for kind in GGMLQuantizationType}
    for _ in range(num_tensors):
        name, rank = cursor.text(), cursor.number("I")
        if rank > 4:
            raise ValueError(f"{name} has {rank} axes")
        shape = tuple(int(cursor.number("Q")) for _ in range(rank))[::-1]
        number = cursor.number("I")
        if number not in numbers:  # of an older form, or of a newer one; another copy would be the same
            raise PairError(
                f"{file} stores {shown(name)} in a type of number {number}, which is not known here; choose another "
                "file of this model, such as Q8_0 or Q4_K_M."
            )
        infos.append((name, shape, GGMLQuantizationType(number), cursor.number("Q")))
    alignment = int(fields.get("general.alignment", 32))
    if not 1 <= alignment <= 1 << 20:
        raise ValueError(f"its alignment is {alignment}")
    begin = -(-cursor.at // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in infos:
        block, size = GGML_QUANT_SIZES[kind]
        count = math.prod(shape)
        if not shape or shape[-1] % block:
            raise ValueError(f"{name} has rows of {shape[-1] if shape else 0}, {kind.name} has blocks of {block}")
        stored = StoredTensor(name, shape, kind.name, begin + offset, count // block * size)
        if stored.offset + stored.size > len(cursor.data):
            raise ValueError(f"{name} ends beyond the end of the file")
        if name in tensors:
            raise ValueError(f"it holds {name} twice")
        if offset % alignment:
            raise ValueError(f"{name} begins between two places of {alignment} bytes")
        tensors[name] = stored
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for one, other in itertools.pairwise(ordered):
        if one.offset + one.size > other.offset:
            raise ValueError(f"{one.name} and {other.name} share bytes")
    return fields, tensors
