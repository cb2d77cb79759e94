"""The shape of a Llama, and how a `config.json` says it: read whole, or refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints.deviations import deviation
from app.errors import PairError

_LARGEST = 1 << 31


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """A stretch of the rotary frequencies. kind: linear (position interpolation: all divided by `factor`) or llama3
    (Llama 3.1's: by wavelength)."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_n_positions: int = 8192


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The shape of a Llama. `kept_ids`: rows of a trimmed output layer, or 0 where it covers the vocabulary.
    `conditioned`: a draft that reads, beside a token, the final state of the position before it (`fusion.weight` maps
    them to what is added to the embedding)."""

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
    conditioned: bool = False

    @property
    def num_parameters(self) -> int:
        """Weights that are multiplied or looked up; tied embeddings once."""
        attention = self.hidden_size * self.head_size * (2 * self.num_heads + 2 * self.num_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        output = 0 if self.tied else (self.kept_ids or self.vocab_size) * self.hidden_size
        fusion = 2 * self.hidden_size**2 if self.conditioned else 0
        return self.num_layers * layer + self.vocab_size * self.hidden_size + self.hidden_size + output + fusion

    def rope_frequencies(self, factors: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        """Radians a position, [head_size / 2]. factors: divisors a GGUF may carry beside or instead of
        `rope_scaling`."""
        frequencies = self.rope_theta ** (-np.arange(0, self.head_size, 2, dtype=np.float64) / self.head_size)
        scaling = self.rope_scaling
        if factors is not None:
            frequencies = frequencies / factors.astype(np.float64)
        if scaling is None:
            return frequencies
        if scaling.kind == "linear":
            return frequencies / scaling.factor
        # Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
        waves = scaling.original_n_positions * frequencies / (2 * math.pi)
        blend = (waves - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        return frequencies * (blend + (1.0 - blend) / scaling.factor)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file. Raises PairError."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("version https://git-lfs"):
            raise PairError(f"{path} is a Git LFS pointer, not the file; run git lfs pull in its folder.")
        data = json.loads(text)
    except FileNotFoundError:
        raise PairError(f"There is no {path.name} in {path.parent}; choose a Hugging Face model directory.") from None
    except OSError as error:
        raise PairError(f"{path} cannot be read ({error.strerror}); check its rights.") from None
    except (ValueError, RecursionError) as error:
        raise PairError(f"{path} is not valid JSON ({error}); fetch the model again.") from None
    if not isinstance(data, dict):
        raise PairError(f"{path} is not a JSON object; fetch the model again.")
    return data


def read_config(path: Path) -> LlamaConfig:
    """The `config.json` (and `generation_config.json`) in directory `path`. Raises PairError."""
    raw = read_json(path / "config.json")
    generation = path / "generation_config.json"
    return config_of(raw, read_json(generation) if generation.exists() else {}, path)


def config_of(raw: dict[str, Any], generation: dict[str, Any], path: Path) -> LlamaConfig:
    """The shape that the two files of the model at `path` give. Raises PairError for any other than a plain Llama's."""
    file = path if path.is_file() else path / "config.json"
    if raw.get("model_type", "llama") != "llama":
        raise PairError(f"{path} holds a {raw['model_type']} model; this playground runs Llama architectures only.")
    try:
        n_positions = _count(raw, "max_position_embeddings", 2048)
        if n_positions < 2:
            raise ValueError(f"max_position_embeddings is {n_positions}")
        if fault := deviation(raw, n_positions):
            raise PairError(f"{path} {fault}.")
        heads, hidden = _count(raw, "num_attention_heads"), _count(raw, "hidden_size")
        rope, scaling = _rope(raw, path)
        config = LlamaConfig(
            num_layers=_count(raw, "num_hidden_layers"),
            hidden_size=hidden,
            intermediate_size=_count(raw, "intermediate_size"),
            num_heads=heads,
            num_kv_heads=_count(raw, "num_key_value_heads", heads),
            head_size=_count(raw, "head_dim", hidden // heads),
            vocab_size=_count(raw, "vocab_size"),
            n_positions=n_positions,
            rms_norm_eps=_finite("rms_norm_eps", raw.get("rms_norm_eps", 1e-6), least=0.0),
            rope_theta=_finite("rope_theta", _first(rope.get("rope_theta"), raw.get("rope_theta"), 10000.0), least=1.0),
            rope_scaling=scaling,
            tied=_switch(raw, "tie_word_embeddings"),
            stop_ids=_stops(raw, generation),
            kept_ids=int((raw.get("playground") or {}).get("kept_ids", 0)),
            conditioned=bool((raw.get("playground") or {}).get("conditioned", False)),
        )
    except KeyError as error:
        raise PairError(f"{file} does not give {error}; fetch the model again.") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PairError(f"{file} cannot be read ({error}); fetch the model again.") from None
    if config.num_heads % config.num_kv_heads or config.head_size % 2:
        raise PairError(
            f"{file} gives {heads} heads of {config.head_size} values and "
            f"{config.num_kv_heads} of keys, "
            "which do not divide; fetch the model again."
        )
    return config


def _count(raw: dict[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        if default is None:
            raise KeyError(key)
        value = default
    if isinstance(value, bool) or int(value) != value or not 1 <= value < _LARGEST:
        raise ValueError(f"{key} is {value!r}")
    return int(value)


def _switch(raw: dict[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value not in (None, False, True):
        raise ValueError(f"{key} is {value!r}")
    return bool(value)


def _stops(raw: dict[str, Any], generation: dict[str, Any]) -> tuple[int, ...]:
    """The ids either file says end a text; one that says null, or none, takes nothing from the other."""
    ours, theirs = (_token_ids(each, "eos_token_id") for each in (raw, generation))
    for each in (raw, generation):  # not used here; but who writes them so wrote the others so
        _token_ids(each, "bos_token_id")
        _token_ids(each, "pad_token_id")
    return tuple(sorted(theirs or ours))


def _token_ids(raw: dict[str, Any], key: str) -> set[int]:
    stated = raw.get(key)
    ids = [value for value in (stated if isinstance(stated, list) else [stated]) if value is not None]
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise ValueError(f"{key} is {stated!r}")
    return {int(value) for value in ids}


def _rope(raw: dict[str, Any], path: Path) -> tuple[dict[str, Any], RopeScaling | None]:
    """The rotary settings, wherever they stand, and the stretch they ask for. Raises PairError for one not known
    here."""
    older, newer = raw.get("rope_scaling") or {}, raw.get("rope_parameters") or {}  # transformers 5 moved them
    if twice := sorted(key for key in older.keys() & newer.keys() if older[key] != newer[key]):
        raise ValueError(f"rope_scaling and rope_parameters give another {twice[0]}")
    if older and newer and _kind(older) != _kind(newer):
        raise ValueError(f"rope_scaling is {_kind(older)} and rope_parameters {_kind(newer)}")
    rope = {**older, **newer}
    if any(isinstance(value, dict) for value in rope.values()):
        raise PairError(f"{path} gives each kind of layer a rope of its own; choose a plain Llama.")
    kind = _kind(rope)
    if kind is None and rope.get("factor", 1) not in (None, 1):
        raise ValueError(f"a rope is stretched by {rope['factor']} in a way it does not name")
    kind = kind or "default"
    if rope.get("partial_rotary_factor", 1) not in (None, 1):
        raise PairError(f"{path} turns a part of each head only; choose a plain Llama.")
    if kind == "default":
        return rope, None
    if kind == "linear":
        return rope, RopeScaling("linear", _positive(rope, "factor"))
    if kind == "llama3":
        low, high = _positive(rope, "low_freq_factor"), _positive(rope, "high_freq_factor")
        if low >= high:
            raise ValueError(f"low_freq_factor is {low}")
        original = _count(rope, "original_max_position_embeddings")
        return rope, RopeScaling("llama3", _positive(rope, "factor"), low, high, original)
    raise PairError(
        f"{path} uses {kind} rope scaling; only the plain one, linear and llama3's are supported, so "
        "choose another model."
    )


def _kind(rope: dict[str, Any]) -> Any:
    return rope.get("rope_type") or rope.get("type")


def _first(*values: Any) -> Any:
    """The first that is said: null says nothing, and 0 does."""
    return next(value for value in values if value is not None)


def _finite(key: str, value: Any, least: float) -> float:
    number = float(value)
    if not least <= number < math.inf:
        raise ValueError(f"{key} is {value}")
    return number


def _positive(rope: dict[str, Any], key: str) -> float:
    value = float(rope[key])
    if not 0 < value < math.inf:
        raise ValueError(f"{key} is {value}")
    return value
