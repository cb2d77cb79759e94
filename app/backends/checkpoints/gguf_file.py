"""GGUF files: their weights as a checkpoint, and their metadata as the files of a Hugging Face directory.

Reading the metadata of a vocabulary takes a second, so `sidecar` writes it once as `config.json`, `tokenizer.json`
and `tokenizer_config.json`; whoever needs a configuration or a tokenizer reads only that one form.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints import gguf_metadata, gguf_tokenizer
from app.backends.checkpoints.cache import filled, fingerprint
from app.backends.checkpoints.checkpoint import Weights, check_numbers, checked_shape
from app.backends.checkpoints.config import LlamaConfig
from app.backends.checkpoints.gguf_reader import GgufFile, StoredTensor, readable
from app.backends.checkpoints.tensor_check import check_tensors
from app.errors import PairError

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "rope_factors": "rope_freqs",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_Q4_0 = 32  # values a block
_Value = TypeVar("_Value", bound=np.generic)
_BACK = {gguf: name for name, gguf in _NAMES.items()}
_IGNORED = re.compile(r"blk\.\d+\.attn_rot_embd\.weight")  # a buffer of old converters
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files of the model's folder that may say what a GGUF leaves out."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a file stores its weights: the type that most bytes are of, and all bytes."""

    kind: str
    size: int


class GgufCheckpoint:
    """A Llama in a GGUF file, or in all parts of a split one; q and k rows are put back from GGUF's interleaved
    order."""

    def __init__(self, path: Path, config: LlamaConfig) -> None:
        """Raises PairError unless its tensors are those of a Llama of that shape, in types that can be read."""
        self._path, self.config = path, config
        self._check()

    @cached_property
    def _stored(self) -> dict[str, tuple[GgufFile, StoredTensor]]:
        files = [GgufFile(part) for part in parts(self._path)]
        stored: dict[str, tuple[GgufFile, StoredTensor]] = {}
        for place, file in enumerate(files):
            _check_part(file, place, len(files))
            file.fields = {}  # a vocabulary, which nobody here reads
            if twice := stored.keys() & file.tensors.keys():
                raise PairError(f"{file.path} holds {min(twice)}, as another part does; fetch the model again.")
            stored |= {name: (file, tensor) for name, tensor in file.tensors.items()}
        return stored

    def _check(self) -> None:
        if "rope_freqs.weight" in self._stored:
            file, tensor = self._stored["rope_freqs.weight"]
            if not np.all(file.dequantised(tensor) > 0):
                raise PairError(f"{self._path.name} divides rotary frequencies by no numbers above 0; fetch it again.")
        tensors = {}
        for name, (_, tensor) in self._stored.items():
            if not _IGNORED.fullmatch(name):
                tensors[hugging_face_name(name)] = (tensor.shape, tensor.kind)
        check_tensors(self.config, tensors, None, self._path.name)
        kinds = {tensor.kind: tensor.name for _, tensor in self._stored.values()}
        for kind, name in kinds.items():
            if not readable(kind):
                raise PairError(
                    f"{self._path.name} stores {name} as {kind}, which cannot be read here; choose another file "
                    "of this "
                    "model, such as Q8_0 or Q4_K_M."
                )

    def stored(self) -> Stored:
        sizes = Counter[str]()
        for _, tensor in self._stored.values():
            sizes[tensor.kind] += tensor.size
        return Stored(sizes.most_common(1)[0][0], sizes.total())

    def __contains__(self, name: str) -> bool:
        return _gguf_name(name) in self._stored

    def tensor(self, name: str) -> Weights:
        if name not in self:
            raise PairError(f"{self._path.name} has no tensor {_gguf_name(name)}; fetch the model again.")
        file, tensor = self._stored[_gguf_name(name)]
        values = checked_shape(self.config, name, file.dequantised(tensor))
        heads = self._heads(name)
        return values if heads is None else _halves(values, heads)

    def four_bits(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float16]] | None:
        """A matrix stored as Q4_0, as it is: (values 0 to 15 [rows, columns], scales [rows, columns / 32]), a value
        standing for (value - 8) * scale. None for any other."""
        file, tensor = self._stored.get(_gguf_name(name), (None, None))
        if file is None or tensor is None or tensor.kind != "Q4_0":
            return None
        blocks = file.raw(tensor).reshape(tensor.shape[0], -1, 2 + _Q4_0 // 2)
        scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
        check_numbers(name, scales)
        # of a byte's halves the low ones are a block's first half
        values = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1).reshape(tensor.shape)
        heads = self._heads(name)
        return (values, scales) if heads is None else (_halves(values, heads), _halves(scales, heads))

    def _heads(self, name: str) -> int | None:
        """Heads whose rows GGUF interleaves, in the matrices where it does."""
        return {"q_proj": self.config.num_heads, "k_proj": self.config.num_kv_heads}.get(name.split(".")[-2])


def _halves(values: NDArray[_Value], heads: int) -> NDArray[_Value]:
    """Rows in GGUF's interleaved rotary order, put back into halves."""
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def parts(path: Path) -> list[Path]:
    """All files of the model that `path` is, or is a part of. Raises PairError naming a part that is missing."""
    match = _SPLIT.fullmatch(path.name)
    if match is None or int(match[2]) > int(match[3]) or int(match[2]) < 1:
        return [path]
    files = []
    for number in range(int(match[3])):
        file = path.with_name(f"{match[1]}-{number + 1:05}-of-{match[3]}.gguf")
        if not file.exists():
            raise PairError(f"{file.name} is missing in {path.parent}; fetch that part of the model, too.")
        files.append(file)
    return files


def _check_part(file: GgufFile, place: int, count: int) -> None:
    """Raise PairError where a file says that it is another part of a split model than its name does."""
    own, parts_ = file.fields.get("split.no", 0), file.fields.get("split.count", 1)
    if int(parts_) > 1 and count == 1:
        raise PairError(
            f"{file.path.name} is part {int(own) + 1} of {parts_} of a model; put the others beside it under the names "
            f"they were published by (...-00001-of-{int(parts_):05}.gguf)."
        )
    if count > 1 and (int(own), int(parts_)) != (place, count):
        raise PairError(
            f"{file.path.name} says that it is part {int(own) + 1} of {parts_} of a model; fetch that part again."
        )


def sidecar(path: Path, cache_dir: Path) -> Path:
    """The directory under `cache_dir` that holds the metadata of the GGUF at `path`, written when it is not there.

    Raises PairError for a file that is damaged, of another architecture, or has a tokenizer we cannot build.
    """
    files = parts(path)
    beside = [file for name in BESIDE if (file := path.parent / name).is_file()]
    sources = [Path(str(module.__file__)) for module in (gguf_metadata, gguf_tokenizer)]
    key = fingerprint([*files, *beside], *(source.read_text(encoding="utf-8") for source in [*sources, Path(__file__)]))

    def write(directory: Path) -> None:
        first, *others = [GgufFile(file) for file in files]
        tensors = {name: tensor for file in (first, *others) for name, tensor in file.tensors.items()}
        for name, content in gguf_metadata.hugging_face_files(path, first.fields, tensors).items():
            text = content if isinstance(content, str) else json.dumps(content)
            (directory / name).write_text(text, encoding="utf-8")

    return filled(cache_dir / f"gguf-{key}", write)


def _gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{_NAMES.get(part, part)}.{kind}"
    return f"{_NAMES.get(stem, stem)}.{kind}"


def hugging_face_name(name: str) -> str:
    """The other way round; names that a Llama has not stay what they are."""
    if match := re.fullmatch(r"blk\.(\d+)\.([^.]+)\.(\w+)", name):
        return f"model.layers.{match[1]}.{_BACK[match[2]]}.{match[3]}" if match[2] in _BACK else name
    stem, _, kind = name.rpartition(".")
    return f"{_BACK[stem]}.{kind}" if stem in _BACK else name
