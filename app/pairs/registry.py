"""Which pairs exist and how each is loaded; the embedded one is the default."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engine.model import Model, Tokenizer
from app.errors import PairError
from app.pairs import memory

if TYPE_CHECKING:
    from app.backends.checkpoints.model_files import ModelFiles

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDED_DRAFT_NAME = "distilled-2-layers"
EMBEDDED_DRAFT = ROOT / "assets" / "draft"
DEFAULT_DTYPE = "int8"


@dataclass(frozen=True, slots=True)
class Pair:
    """A target, its draft (None: target-only), and the tokenizer they share."""

    name: str
    backend: str
    target: Model
    draft: Model | None
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class PairOptions:
    """What the command line says of a pair. None: the embedded pair, the backend's own choice.

    target and draft: a GGUF, a Hugging Face directory or, for torch, a Hub id (`revision`, `draft_revision`: which
    version of it). threads is for openvino and torch on a processor, device for torch; tp_degree, windows and
    artifacts are for neuron.
    """

    backend: str = "openvino"
    target: Path | None = None
    draft: Path | None = None
    dtype: str | None = None
    threads: int | None = None
    n_positions: int | None = None
    device: str | None = None
    revision: str | None = None
    draft_revision: str | None = None
    tp_degree: int | None = None
    windows: tuple[int, ...] | None = None
    artifacts: Path | None = None


def models_dir() -> Path:
    """Where fetched models and what is made from them are kept; PLAYGROUND_MODELS moves it."""
    return Path(os.environ.get("PLAYGROUND_MODELS") or ROOT / "models")


def load(options: PairOptions) -> Pair:
    """The pair, checked and ready to run. Raises PairError."""
    return prepare(options)()


def prepare(options: PairOptions, freed: int = 0) -> Callable[[], Pair]:
    """What loads the pair, once all that can be checked before is checked; freed: bytes given back in between.

    Raises PairError, then and on loading.
    """
    if options.backend not in _BACKENDS:
        raise PairError(f"There is no backend {options.backend!r}; choose one of {', '.join(_BACKENDS)}.")
    if options.n_positions is not None and options.n_positions < 2:
        raise PairError(f"A context of {options.n_positions} positions is too short; choose 2 or more.")
    if options.threads is not None and not 1 <= options.threads <= (os.cpu_count() or 1):
        raise PairError(f"{options.threads} threads cannot run here; choose 1 to {os.cpu_count()}.")
    return _BACKENDS[options.backend](options, freed)


def _prepare_openvino(options: PairOptions, freed: int) -> Callable[[], Pair]:
    from app.backends.openvino import model as openvino

    for path in (options.target, options.draft):
        if path is not None and _is_hub_id(path):
            raise PairError(f"There is no model at {path}; check the path, or add --backend torch for one of the Hub.")
    target, draft = _files(options.target, options.draft)
    dtype = options.dtype or DEFAULT_DTYPE
    if dtype not in (known := openvino.WEIGHT_BYTES):
        raise PairError(f"The OpenVINO backend has no precision {dtype!r}; choose one of {', '.join(known)}.")
    value_bytes = openvino.cached_value_bytes(dtype)
    _check_memory(options, target, draft, known[dtype], value_bytes, memory.free_memory(), freed)

    def model(files: ModelFiles, embeddings: ModelFiles | None) -> Model:
        return openvino.OpenVinoModel(
            files.config,
            lambda: files.weights(embeddings),
            name=files.name,
            files=[*files.files, *([] if embeddings is None else embeddings.files)],
            cache_dir=cache_dir(),
            # Packed in 8 bits, it gains nothing from weights in 16, and its pass takes 1.2 to 1.4 times as long.
            dtype="int8" if dtype != "f32" and files.is_packed() else dtype,
            threads=options.threads,
            n_positions=options.n_positions,
            kept_ids=files.kept_ids(),
        )

    return lambda: _loaded("openvino", target, draft, model)


def _prepare_torch(options: PairOptions, freed: int) -> Callable[[], Pair]:
    try:
        from app.backends.torch import model as backend
    except ImportError as error:
        raise PairError(
            f"The torch backend's packages are not installed ({error}); start with ./launch.sh, which installs them, or "
            "pip install -r app/backends/requirements-torch.txt."
        ) from None
    device = backend.choose_device(options.device)
    dtype = backend.choose_dtype(options.dtype, device)
    backend.use_threads(options.threads)

    def here(path: Path | None, revision: str | None) -> Path | None:
        return backend.fetch(str(path), revision) if path is not None and _is_hub_id(path) else path

    def name(path: Path | None) -> str | None:  # a fetched one lies in a folder named by its commit
        return path.name if path is not None and _is_hub_id(path) else None

    target, draft = _files(
        here(options.target, options.revision),
        here(options.draft, options.draft_revision),
        name(options.target),
        name(options.draft),
    )
    size = backend.DTYPES[dtype].itemsize
    free, where = backend.free_memory(device), "memory"
    if free is None:
        free = memory.free_memory()
    elif device.index is None:  # what the GPUs do not hold, the processor's memory does
        free, where = free + (memory.free_memory() or 0), "memory on all devices"
    _check_memory(options, target, draft, size, size, free, freed, where)

    def model(files: ModelFiles, embeddings: ModelFiles | None) -> Model:
        return backend.TorchModel(
            files.config,
            files.weights(embeddings),
            name=files.name,
            device=device,
            dtype=dtype,
            n_positions=options.n_positions,
            kept_ids=files.kept_ids(),
        )

    return lambda: _loaded("torch", target, draft, model)


def _files(
    target: Path | None, draft: Path | None, target_name: str | None = None, draft_name: str | None = None
) -> tuple[ModelFiles, ModelFiles | None]:
    """The models of a pair, checked against each other; without a target the embedded one, and its draft."""
    from app.backends.checkpoints.model_files import ModelFiles, check_pair

    if target is None:
        target, target_name = embedded_target(), EMBEDDED_NAME
        if draft is None:
            draft, draft_name = EMBEDDED_DRAFT, EMBEDDED_DRAFT_NAME
    files = ModelFiles(target, cache_dir(), target_name)
    if draft is None:
        return files, None
    draft_files = ModelFiles(draft, cache_dir(), draft_name)
    check_pair(files, draft_files)
    if draft_files.lacks_embeddings() and draft_files.config.hidden_size != files.config.hidden_size:
        raise PairError(
            f"{draft_files.name} has no embeddings and another width than {files.name}; choose another draft."
        )
    return files, draft_files


def _check_memory(
    options: PairOptions,
    target: ModelFiles,
    draft: ModelFiles | None,
    weight_bytes: float,
    cache_bytes: int,
    free: int | None,
    freed: int,
    where: str = "memory",
) -> None:
    """Two caches of the target, one for each arm, and one of the draft, all as long as they may become."""
    longest = min(files.config.n_positions for files in (target, draft) if files is not None)
    n_positions = min(options.n_positions or longest, longest)
    needs = []
    for files, sequences in ((target, 2), *([] if draft is None else [(draft, 1)])):
        config = files.config
        position = 2 * config.num_layers * config.num_kv_heads * config.head_size * cache_bytes
        weights = int(config.num_parameters * weight_bytes)
        needs.append(memory.Need(files.name, weights, sequences * position * n_positions))
    memory.check(needs, None if free is None else free + freed, n_positions, where)


def _loaded(
    backend: str,
    target: ModelFiles,
    draft: ModelFiles | None,
    load_model: Callable[[ModelFiles, ModelFiles | None], Model],
) -> Pair:
    """load_model: given the files, and those of the model whose embeddings it uses in place of its own."""
    target_model = load_model(target, None)
    if draft is None:
        return Pair(target_model.name, backend, target_model, None, target.tokenizer())
    draft_model = load_model(draft, target if draft.lacks_embeddings() else None)
    name = f"{target_model.name} + {draft_model.name}"
    return Pair(name, backend, target_model, draft_model, target.tokenizer())


def _is_hub_id(path: Path) -> bool:
    """Whether `path` is written as owner/name and is nothing on this disk."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(path)) is not None and not path.exists()


def _prepare_neuron(options: PairOptions, freed: int) -> Callable[[], Pair]:
    from app.backends.checkpoints.model_files import ModelFiles, check_pair
    from app.backends.neuron import model as neuron

    if options.target is None or options.draft is None:
        raise PairError("The neuron backend has no pair of its own; name one with --target DIR and --draft DIR.")
    for path in (options.target, options.draft):
        if not path.is_dir():
            raise PairError(f"{path} is no model directory; the neuron backend loads Hugging Face directories.")
    target_dir, draft_dir = options.target, options.draft
    target_files, draft_files = ModelFiles(target_dir, cache_dir()), ModelFiles(draft_dir, cache_dir())
    check_pair(target_files, draft_files)
    given = {
        "dtype": options.dtype,
        "tp_degree": options.tp_degree,
        "n_positions": options.n_positions,
        "windows": options.windows,
        "artifacts": options.artifacts,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def load_pair() -> Pair:
        target, draft = neuron.load_pair(target_dir, draft_dir, **chosen)
        return Pair(f"{target.name} + {draft.name}", "neuron", target, draft, target_files.tokenizer())

    return load_pair


_BACKENDS: dict[str, Callable[[PairOptions, int], Callable[[], Pair]]] = {
    "openvino": _prepare_openvino,
    "torch": _prepare_torch,
    "neuron": _prepare_neuron,
}


def embedded_target() -> Path:
    """The fetched GGUF, checked against its checksum. Raises PairError."""
    path = models_dir() / EMBEDDED_FILE
    if not path.exists():
        raise PairError(f"The embedded target is not at {path}; run ./launch.sh setup to fetch it.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    if digest.hexdigest() != EMBEDDED_SHA256:
        raise PairError(f"{path} is damaged (its checksum is wrong); delete it and run ./launch.sh setup again.")
    return path


def cache_dir() -> Path:
    """Where graphs and metadata made from models are kept."""
    return models_dir() / "cache"
