"""What is known beforehand: Neuron instance types, Llama models by name, and reading a model's shape from a config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from app.errors import PairError, RequestError

CORE_BYTES = 16 * 2**30
"""What a NeuronCore has."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance type. doubtful: degrees that AWS's documents disagree about; allowed here, with a warning."""

    name: str
    num_cores: int
    tp_degrees: tuple[int, ...]
    doubtful: tuple[int, ...] = ()

    @property
    def device_gib(self) -> int:
        return self.num_cores * CORE_BYTES // 2**30

    @property
    def all_degrees(self) -> tuple[int, ...]:
        return tuple(sorted(self.tp_degrees + self.doubtful))


INSTANCES = {
    instance.name: instance
    for instance in (
        Instance("inf2.xlarge", 2, (1, 2)),
        Instance("inf2.8xlarge", 2, (1, 2)),
        Instance("inf2.24xlarge", 12, (1, 2, 4, 8), doubtful=(12,)),
        Instance("inf2.48xlarge", 24, (1, 2, 4, 8, 24), doubtful=(12,)),
        Instance("trn1.2xlarge", 2, (1, 2)),
        Instance("trn1.32xlarge", 32, (1, 2, 8, 16, 32)),
        Instance("trn1n.32xlarge", 32, (1, 2, 8, 16, 32)),
        Instance("trn2.48xlarge", 0, ()),  # listed to be refused with its reason
    )
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a Llama model. tied: the output layer is the embedding."""

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    max_positions: int
    tied: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = (2 * self.num_layers + 1) * self.hidden_size
        embeddings = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        return embeddings + self.num_layers * (attention + mlp) + norms


MODELS = {
    model.name: model
    for model in (
        ModelConfig("llama-2-7b", 32000, 4096, 32, 32, 32, 11008, 4096),
        ModelConfig("llama-2-13b", 32000, 5120, 40, 40, 40, 13824, 4096),
        ModelConfig("llama-2-70b", 32000, 8192, 80, 64, 8, 28672, 4096),
        ModelConfig("llama-3-8b", 128256, 4096, 32, 32, 8, 14336, 8192),
        ModelConfig("llama-3-70b", 128256, 8192, 80, 64, 8, 28672, 8192),
        ModelConfig("llama-3.1-8b", 128256, 4096, 32, 32, 8, 14336, 131072),
        ModelConfig("llama-3.1-70b", 128256, 8192, 80, 64, 8, 28672, 131072),
        ModelConfig("llama-3.2-1b", 128256, 2048, 16, 32, 8, 8192, 131072, tied=True),
        ModelConfig("llama-3.2-3b", 128256, 3072, 28, 24, 8, 8192, 131072, tied=True),
    )
}


def model_config(name_or_path: str) -> ModelConfig:
    """A model of the catalogue by name, or one described by a local config.json (or a folder that holds one).

    Raises RequestError where it is neither, PairError where the file does not describe a Llama.
    """
    known = MODELS.get(name_or_path.strip().lower())
    if known is not None:
        return known
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        raise RequestError(
            f"There is no model {name_or_path!r}; use one of {', '.join(MODELS)}, or the path of a config.json."
        )
    return read_config(path)


def read_config(path: Path) -> ModelConfig:
    """The shape in a Hugging Face config.json, named after its folder. Raises PairError naming what is amiss."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairError(f"{path} cannot be read as JSON ({error}); download the checkpoint again.") from None
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    missing = [key for key in needed if not _is_positive_int(config.get(key))] if isinstance(config, dict) else needed
    if missing:
        raise PairError(f"{path} gives no {missing[0]}; a Llama checkpoint's config.json is needed.")
    return ModelConfig(
        name=path.resolve().parent.name,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        max_positions=config.get("max_position_embeddings") or 2048,
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def instance_named(name: str) -> Instance:
    """The instance of the catalogue. Raises RequestError listing them where it is unknown."""
    name = name.strip().lower()
    if name in INSTANCES:
        return INSTANCES[name]
    if name.startswith("trn2"):
        return Instance(name, 0, ())
    known = ", ".join(known.name for known in INSTANCES.values() if known.num_cores)
    raise RequestError(f"There is no Neuron instance {name!r}; use one of {known}.")


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
