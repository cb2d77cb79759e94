"""What is known beforehand: Neuron instance types, Llama models by name, and reading a model's shape from a
config.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from app.errors import PairError, RequestError

CORE_BYTES = 16 * 2**30
"""What a NeuronCore of Inferentia2 or Trainium1 has."""
TRN2_CORE_BYTES = 24 * 2**30
"""What a logical core of Trainium2 has: two physical ones share it (LNC 2, the default)."""
TRANSFORMERS_NEURONX, NXD_INFERENCE = "transformers-neuronx", "nxd-inference"
LIBRARIES = (TRANSFORMERS_NEURONX, NXD_INFERENCE)
FAMILIES = ("llama", "mistral")
"""Values of `model_type` whose shape is a Llama's; only a Llama's windows can be scored."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance type. num_cores: NeuronCores, logical ones on Trainium2. doubtful: degrees that AWS's documents
    disagree about; allowed here, with a warning. inferred: known from a part of a larger instance, not from a document
    of its own."""

    name: str
    num_cores: int
    tp_degrees: tuple[int, ...]
    doubtful: tuple[int, ...] = ()
    core_bytes: int = CORE_BYTES
    libraries: tuple[str, ...] = LIBRARIES
    inferred: bool = False

    @property
    def device_bytes(self) -> int:
        return self.num_cores * self.core_bytes

    @property
    def device_gib(self) -> int:
        """As AWS publishes it, whose GB are these."""
        return self.device_bytes // 2**30

    @property
    def core_gb(self) -> int:
        """What the rule of thumb divides by: the published one says 16 GB a core."""
        return self.core_bytes // 2**30

    @property
    def all_degrees(self) -> tuple[int, ...]:
        return tuple(sorted(self.tp_degrees + self.doubtful))


def _trn2(name: str, num_cores: int, degrees: tuple[int, ...], *, inferred: bool = False) -> Instance:
    return Instance(name, num_cores, degrees, core_bytes=TRN2_CORE_BYTES, libraries=(NXD_INFERENCE,), inferred=inferred)


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
        _trn2("trn2.3xlarge", 4, (1, 2, 4), inferred=True),  # one of the sixteen chips
        _trn2("trn2.48xlarge", 64, (1, 2, 4, 8, 16, 32, 64)),
        _trn2("trn2u.48xlarge", 64, (1, 2, 4, 8, 16, 32, 64)),
    )
}
OTHER_GENERATIONS = {
    "inf1": "Inferentia1 runs neither library; choose an Inf2, Trn1 or Trn2 instance",
    "trn3": "Trainium3 is reached by PyTorch's own device, not by a library that is planned for here; "
    "run with --backend torch --device neuron",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a Llama. tied: the output layer is the embedding. head_size: None where the heads divide the
    width."""

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    max_positions: int
    tied: bool = False
    head_size: int | None = None
    family: str = "llama"

    @property
    def head_dim(self) -> int:
        return self.head_size or self.hidden_size // self.num_heads

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
        ModelConfig("llama-3.1-405b", 128256, 16384, 126, 128, 8, 53248, 131072),
        ModelConfig("llama-3.2-1b", 128256, 2048, 16, 32, 8, 8192, 131072, tied=True),
        ModelConfig("llama-3.2-3b", 128256, 3072, 28, 24, 8, 8192, 131072, tied=True),
        ModelConfig("llama-3.3-70b", 128256, 8192, 80, 64, 8, 28672, 131072),
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
    """The shape in a Hugging Face config.json, named after its folder. Raises PairError naming what is amiss: a model
    of another architecture, a size that is absent or no count, heads that do not divide."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairError(f"{path} cannot be read as JSON ({error}); download the checkpoint again.") from None
    if not isinstance(config, dict):
        raise PairError(f"{path} is no JSON object; a Llama checkpoint's config.json is needed.")
    family = config.get("model_type") or "llama"
    if family not in FAMILIES:
        raise PairError(f"{path} describes a {family} model; only Llama architectures run on Neuron here.")

    def size(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            said = "no" if value is None else f"{value!r} for"
            raise PairError(f"{path} gives {said} {key}; a Llama checkpoint's config.json is needed.")
        return value

    heads = size("num_attention_heads")
    model = ModelConfig(
        name=path.resolve().parent.name,
        vocab_size=size("vocab_size"),
        hidden_size=size("hidden_size"),
        num_layers=size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=size("num_key_value_heads", heads),
        intermediate_size=size("intermediate_size"),
        max_positions=size("max_position_embeddings", 2048),
        tied=bool(config.get("tie_word_embeddings", False)),
        head_size=None if config.get("head_dim") is None else size("head_dim"),
        family=family,
    )
    _check_shape(path, model)
    return model


def _check_shape(path: Path, model: ModelConfig) -> None:
    """Raises PairError for a shape no Llama can have."""
    if model.num_heads % model.num_kv_heads:
        amiss = f"{model.num_kv_heads} key and value heads, which do not divide {model.num_heads} attention heads"
    elif model.head_size is None and model.hidden_size % model.num_heads:
        amiss = f"a width of {model.hidden_size}, which {model.num_heads} heads do not divide"
    elif model.head_dim % 2:
        amiss = f"heads of {model.head_dim}, which is odd and cannot be rotated by position"
    else:
        return
    raise PairError(f"{path} gives {amiss}; download the checkpoint's config.json again.")


def instance_named(name: str) -> Instance:
    """The instance of the catalogue, or one without cores, to be refused, of a generation that is known not to run.
    Raises RequestError listing the known ones where it is none."""
    name = name.strip().lower()
    if name in INSTANCES:
        return INSTANCES[name]
    generation = re.match(r"[a-z]+\d+", name)
    if generation and generation.group() in OTHER_GENERATIONS:
        return Instance(name, 0, (), libraries=())
    raise RequestError(f"There is no Neuron instance {name!r} here; use one of {', '.join(INSTANCES)}.")


def product_name() -> str:
    """This machine's instance type, as EC2 tells it to the kernel; empty elsewhere."""
    try:
        return Path("/sys/devices/virtual/dmi/id/product_name").read_text(encoding="ascii").strip().lower()
    except (OSError, ValueError):
        return ""
