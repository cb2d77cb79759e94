"""Llama checkpoints on disk, read without torch: what all kinds have in common, and Hugging Face directories.

A checkpoint answers with a `LlamaConfig` and float32 tensors under Hugging Face's names and layout (half-rotation
RoPE). GGUF files are read by `app.backends.checkpoints.gguf_file`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints import int8
from app.backends.checkpoints.config import LlamaConfig, read_config, read_json
from app.backends.checkpoints.directory import is_pointer, without_weights
from app.backends.checkpoints.tensor_check import check_tensors, expected_shape
from app.errors import PairError

Weights = NDArray[np.float32]
SAFETENSORS_TYPES = ("F32", "F16", "BF16", "F64")
_CHUNK = 64 << 20  # bytes compared at once
_BEYOND_F16 = 65520.0  # the least that half precision rounds to infinity


class Checkpoint(Protocol):
    """Weights on disk."""

    @property
    def config(self) -> LlamaConfig: ...
    def __contains__(self, name: str) -> bool: ...
    def tensor(self, name: str) -> Weights:
        """The tensor as float32, C order. Raises PairError, naming it, if it is absent, of a type that is not read
        here, or of another shape than the configuration says."""
        ...


class WithEmbeddings:
    """A draft that looks words up in its target's embeddings, so that they are not stored twice."""

    def __init__(self, draft: Checkpoint, target: Checkpoint) -> None:
        self._draft, self._target = draft, target
        self.config = draft.config

    def __contains__(self, name: str) -> bool:
        return name in self._draft or name.startswith("model.embed_tokens.")

    def tensor(self, name: str) -> Weights:
        return (self._target if name.startswith("model.embed_tokens.") else self._draft).tensor(name)


class InHalf:
    """A checkpoint whose values are to be held in half precision: those beyond it are refused."""

    def __init__(self, whole: Checkpoint) -> None:
        self._whole = whole
        self.config = whole.config

    def __contains__(self, name: str) -> bool:
        return name in self._whole

    def tensor(self, name: str) -> Weights:
        values = self._whole.tensor(name)
        if values.size and max(values.max(), -values.min()) >= _BEYOND_F16:
            raise beyond_half(name)
        return values


class SafetensorsCheckpoint:
    """A Hugging Face Llama directory: `config.json` and one or several `.safetensors` files.

    `config.tied` is what the files hold, which is not always what `config.json` says: an output layer that differs from
    the embeddings is one of its own, as in transformers 5.
    """

    def __init__(self, path: Path) -> None:
        """Raises PairError for a directory that lacks a tensor, or holds what a Llama has not."""
        self.path = path
        self.config = read_config(path)
        raw = read_json(path / "config.json")
        self._stored = self._index()
        self._alias: dict[str, str] = {}
        own = "kept_ids" in self._stored or any(name.endswith(".scales") for name in self._stored)
        own = own or bool(raw.get("playground"))
        embeddings, head = "model.embed_tokens.weight", "lm_head.weight"
        if self.config.tied and not own and head in self._stored:
            if embeddings not in self._stored:
                self._alias[embeddings] = head
            elif not self._equal(embeddings, head):
                self.config = dataclasses.replace(self.config, tied=False)
        self.lacks_embeddings = embeddings not in self
        tensors = {name: (shape, kind) for name, (_, shape, kind) in self._stored.items()}
        tensors |= {name: tensors[other] for name, other in self._alias.items()}
        check_tensors(self.config, tensors, SAFETENSORS_TYPES, str(path), own=own)
        self._check_biases(raw)

    def _check_biases(self, raw: dict[str, Any]) -> None:
        """Whether there are biases stands in the configuration: what it does not say is no for some readers and looked
        up by others, so it must say what the files hold. Raises PairError."""
        for key, part in (("attention_bias", ".self_attn."), ("mlp_bias", ".mlp.")):
            if raw.get(key) is True and not any(part in name and name.endswith(".bias") for name in self._stored):
                raise PairError(f"{self.path} says {key} = true and holds no such biases; fetch the model again.")
            if raw.get(key) is not True:
                biases = [name for name in self._stored if part in name and name.endswith(".bias")]
                if any(np.any(self.raw(name)) for name in biases):
                    said = f"says {key} = false" if raw.get(key) is False else f"does not say {key} = true"
                    raise PairError(
                        f"{self.path} {said} and holds biases such as {biases[0]}; correct its config.json."
                    )

    def _index(self) -> dict[str, tuple[Path, tuple[int, ...], str]]:
        """Name -> (file, shape, type) of every tensor."""
        from safetensors import SafetensorError, safe_open

        index = self.path / "model.safetensors.index.json"
        whole = self.path / "model.safetensors"  # counts where both are there, as in transformers
        if index.exists() and not whole.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
                raise PairError(f"{index} has no weight_map; fetch the model again.")
            files = {self.path / name for name in weight_map.values()}
        else:
            files = {whole}
            if not whole.exists():
                raise PairError(without_weights(self.path))
        stored: dict[str, tuple[Path, tuple[int, ...], str]] = {}
        for file in sorted(files):
            if file.parent != self.path or not file.exists():
                raise PairError(f"{file.name} is missing in {self.path}; fetch the model again.")
            if is_pointer(file):
                raise PairError(f"{file} is a Git LFS pointer, not the weights; run git lfs pull in {self.path}.")
            try:
                with safe_open(file, framework="numpy") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  (no mapping)
                        if name in stored:
                            raise PairError(
                                f"{name} lies in {stored[name][0].name} and in {file.name} of {self.path}; which one "
                                "counts cannot be known, so fetch the model again."
                            )
                        part = tensors.get_slice(name)
                        stored[name] = (file, tuple(part.get_shape()), str(part.get_dtype()))
            except (SafetensorError, OSError) as error:
                raise PairError(f"{file} is damaged ({error}); fetch it again.") from error
        return stored

    def _equal(self, name: str, other: str) -> bool:
        """Whether two matrices hold the same values; read by rows, since they are the largest there are."""
        from safetensors import safe_open

        (file, shape, kind), (other_file, other_shape, other_kind) = self._stored[name], self._stored[other]
        if (shape, kind) != (other_shape, other_kind) or kind not in SAFETENSORS_TYPES or len(shape) != 2:
            return False
        import ml_dtypes  # noqa: F401  (teaches NumPy the name bfloat16)

        rows = max(1, _CHUNK // max(1, 4 * shape[1]))
        with safe_open(file, framework="numpy") as one, safe_open(other_file, framework="numpy") as two:
            left, right = one.get_slice(name), two.get_slice(other)
            for begin in range(0, shape[0], rows):
                end = min(begin + rows, shape[0])
                if not np.array_equal(left[begin:end], right[begin:end]):
                    return False
        return True

    def __contains__(self, name: str) -> bool:
        return name in self._stored or name in self._alias

    def raw(self, name: str) -> NDArray[Any]:
        """The tensor in the type it is stored in."""
        import ml_dtypes  # noqa: F401  (teaches NumPy the name bfloat16, which safetensors asks for)
        from safetensors import safe_open

        with safe_open(self._stored[name][0], framework="numpy") as tensors:
            return np.asarray(tensors.get_tensor(name))

    def tensor(self, name: str) -> Weights:
        name = self._alias.get(name, name)
        if name not in self._stored:
            raise PairError(f"{self.path} has no tensor {name}; fetch the model again.")
        if f"{name}.scales" in self._stored:
            return checked_shape(self.config, name, int8.exact(self.raw(name), self.raw(f"{name}.scales")))
        kind = self._stored[name][2]
        if kind not in SAFETENSORS_TYPES:
            raise PairError(
                f"{self.path} stores {name} as {kind}, which is not supported; choose weights in one of "
                f"{', '.join(SAFETENSORS_TYPES)}, or a GGUF."
            )
        with np.errstate(over="ignore"):  # F64 may hold more than float32 can: found below
            return checked_shape(self.config, name, self.raw(name).astype(np.float32))


def checked_shape(config: LlamaConfig, name: str, values: Weights) -> Weights:
    """`values`, if they have the shape the configuration gives the tensor. Raises PairError."""
    expected = expected_shape(config, name)
    if values.shape != expected:
        raise PairError(
            f"{name} has the shape {list(values.shape)} where the configuration says {list(expected)}; "
            "fetch the model again."
        )
    check_numbers(name, values)
    return values


def check_numbers(name: str, values: NDArray[Any]) -> None:
    """Raise PairError where some of the tensor's values are none."""
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise no_numbers(name)


def beyond_half(name: str) -> PairError:
    """The sentence for a tensor whose values half precision would make infinite."""
    return PairError(f"{name} holds values that f16 cannot; choose --dtype bf16.")


def no_numbers(name: str) -> PairError:
    """The sentence for a tensor that holds NaN or infinity."""
    return PairError(f"{name} holds values that are no numbers, so the file is damaged; fetch the model again.")
