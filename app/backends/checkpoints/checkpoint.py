"""Llama checkpoints on disk, read without torch: what all kinds have in common, and Hugging Face directories.

A checkpoint answers with a `LlamaConfig` and float32 tensors under Hugging Face's names and layout (half-rotation
RoPE). GGUF files are read by `app.backends.checkpoints.gguf_file`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints import int8
from app.errors import PairError

Weights = NDArray[np.float32]
SAFETENSORS_TYPES = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama-3.1's stretch of the rotary frequencies (`rope_type` llama3)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_n_positions: int


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The shape of a Llama. `kept_ids`: rows of a trimmed output layer, or 0 where it covers the vocabulary."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    n_positions: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tied: bool = False
    stop_ids: tuple[int, ...] = ()
    kept_ids: int = 0

    @property
    def num_parameters(self) -> int:
        """Weights that are multiplied or looked up; tied embeddings once."""
        attention = self.hidden_size * self.head_size * (2 * self.num_heads + 2 * self.num_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        output = 0 if self.tied else (self.kept_ids or self.vocab_size) * self.hidden_size
        return self.num_layers * layer + self.vocab_size * self.hidden_size + self.hidden_size + output

    def rope_frequencies(self, factors: Weights | None = None) -> NDArray[np.float64]:
        """Radians a position, [head_size / 2]. factors: divisors a GGUF may carry instead of `rope_scaling`."""
        frequencies = self.rope_theta ** (-np.arange(0, self.head_size, 2, dtype=np.float64) / self.head_size)
        if factors is not None:
            return frequencies / factors.astype(np.float64)
        if self.rope_scaling is None:
            return frequencies
        # Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
        scaling = self.rope_scaling
        waves = scaling.original_n_positions * frequencies / (2 * math.pi)
        blend = (waves - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        return frequencies * (blend + (1.0 - blend) / scaling.factor)


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


class SafetensorsCheckpoint:
    """A Hugging Face Llama directory: `config.json` and one or several `.safetensors` files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self._files = self._index()

    def _index(self) -> dict[str, Path]:
        from safetensors import SafetensorError, safe_open

        index = self.path / "model.safetensors.index.json"
        if index.exists():
            files = {self.path / name for name in read_json(index)["weight_map"].values()}
        else:
            files = {self.path / "model.safetensors"}
        names: dict[str, Path] = {}
        for file in sorted(files):
            if file.parent != self.path or not file.exists():
                raise PairError(f"{file.name} is missing in {self.path}; fetch the model again.")
            try:
                with safe_open(file, framework="numpy") as tensors:
                    names.update(dict.fromkeys(tensors.keys(), file))
            except SafetensorError as error:
                raise PairError(f"{file} is damaged ({error}); fetch it again.") from error
        return names

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def raw(self, name: str) -> NDArray[Any]:
        """The tensor in the type it is stored in."""
        import ml_dtypes  # noqa: F401  (teaches NumPy the name bfloat16, which safetensors asks for)
        from safetensors import safe_open

        with safe_open(self._files[name], framework="numpy") as tensors:
            return np.asarray(tensors.get_tensor(name))

    def tensor(self, name: str) -> Weights:
        from safetensors import safe_open

        if name not in self._files:
            raise PairError(f"{self.path} has no tensor {name}; fetch the model again.")
        if f"{name}.scales" in self._files:
            return checked_shape(self.config, name, int8.exact(self.raw(name), self.raw(f"{name}.scales")))
        with safe_open(self._files[name], framework="numpy") as tensors:
            kind = tensors.get_slice(name).get_dtype()
        if kind not in SAFETENSORS_TYPES:
            raise PairError(
                f"{self.path} stores {name} as {kind}, which is not supported; choose weights in one of "
                f"{', '.join(SAFETENSORS_TYPES)}, or a GGUF."
            )
        return checked_shape(self.config, name, self.raw(name).astype(np.float32))


def checked_shape(config: LlamaConfig, name: str, values: Weights) -> Weights:
    """`values`, if they have the shape the configuration gives the tensor. Raises PairError."""
    heads, kv_heads = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = {
        "embed_tokens": (config.vocab_size, hidden),
        "lm_head": (config.kept_ids or config.vocab_size, hidden),
        "q_proj": (heads, hidden),
        "k_proj": (kv_heads, hidden),
        "v_proj": (kv_heads, hidden),
        "o_proj": (hidden, heads),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "rope_factors": (config.head_size // 2,),
    }
    *_, part, kind = name.rsplit(".", 2)
    expected = shapes.get(part, (hidden,))
    expected = expected[:1] if kind == "bias" else expected
    if values.shape != expected:
        raise PairError(
            f"{name} has the shape {list(values.shape)} where the configuration says {list(expected)}; "
            "fetch the model again."
        )
    return values


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file. Raises PairError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PairError(f"There is no {path.name} in {path.parent}; choose a Hugging Face model directory.") from None
    except ValueError as error:
        raise PairError(f"{path} is not valid JSON ({error}); fetch the model again.") from None
    if not isinstance(data, dict):
        raise PairError(f"{path} is not a JSON object; fetch the model again.")
    return data


def read_config(path: Path) -> LlamaConfig:
    """The `config.json` (and `generation_config.json`) in directory `path`. Raises PairError."""
    raw = read_json(path / "config.json")
    if raw.get("model_type", "llama") != "llama":
        raise PairError(f"{path} holds a {raw['model_type']} model; this playground runs Llama architectures only.")
    try:
        # transformers 5 moved both into rope_parameters
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        scaling = None
        if kind == "llama3":
            scaling = RopeScaling(
                float(rope["factor"]),
                float(rope["low_freq_factor"]),
                float(rope["high_freq_factor"]),
                int(rope["original_max_position_embeddings"]),
            )
        elif kind != "default":
            raise PairError(f"{path} uses {kind} rope scaling; only the plain one and llama3's are supported.")
        stops = raw.get("eos_token_id")
        generation = path / "generation_config.json"
        if generation.exists():
            stops = read_json(generation).get("eos_token_id", stops)
        stops = stops if isinstance(stops, list) else [stops]
        heads, hidden = int(raw["num_attention_heads"]), int(raw["hidden_size"])
        return LlamaConfig(
            num_layers=int(raw["num_hidden_layers"]),
            hidden_size=hidden,
            intermediate_size=int(raw["intermediate_size"]),
            num_heads=heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_size=int(raw.get("head_dim") or hidden // heads),
            vocab_size=int(raw["vocab_size"]),
            n_positions=int(raw["max_position_embeddings"]),
            rms_norm_eps=float(raw["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
            rope_scaling=scaling,
            tied=bool(raw.get("tie_word_embeddings", False)),
            stop_ids=tuple(sorted({int(i) for i in stops if i is not None})),
            kept_ids=int(raw.get("playground", {}).get("kept_ids", 0)),
        )
    except KeyError as error:
        raise PairError(f"{path / 'config.json'} does not give {error}; fetch the model again.") from None
