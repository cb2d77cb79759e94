"""Which pairs exist and how each is loaded; the embedded one is the default."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import PairError
from app.model import Model, Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.backends.checkpoint import Checkpoint, LlamaConfig

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
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

    threads is for openvino; tp_degree, windows and artifacts are for neuron.
    """

    backend: str = "openvino"
    target: Path | None = None
    draft: Path | None = None
    dtype: str | None = None
    threads: int | None = None
    n_positions: int | None = None
    tp_degree: int | None = None
    windows: tuple[int, ...] | None = None
    artifacts: Path | None = None


def models_dir() -> Path:
    """Where fetched models and what is made from them are kept; PLAYGROUND_MODELS moves it."""
    return Path(os.environ.get("PLAYGROUND_MODELS") or ROOT / "models")


def load(options: PairOptions) -> Pair:
    """The pair, ready to run. Raises PairError."""
    if options.backend not in _LOADERS:
        raise PairError(f"There is no backend {options.backend!r}; choose one of {', '.join(_LOADERS)}.")
    if options.n_positions is not None and options.n_positions < 2:
        raise PairError(f"A context of {options.n_positions} positions is too short; choose 2 or more.")
    return _LOADERS[options.backend](options)


def _load_openvino(options: PairOptions) -> Pair:
    if options.threads is not None and not 1 <= options.threads <= (os.cpu_count() or 1):
        raise PairError(f"{options.threads} threads cannot run here; choose 1 to {os.cpu_count()}.")
    if options.target is None:
        target_files = _Files(embedded_target(), EMBEDDED_NAME)
        draft_files: _Files | None = _Files(options.draft or EMBEDDED_DRAFT)
    else:
        target_files = _Files(options.target)
        draft_files = None if options.draft is None else _Files(options.draft)
    if draft_files is not None:
        _check_shapes(target_files, draft_files)
    target = _openvino(target_files, options)
    draft = None if draft_files is None else _openvino(draft_files, options, target_files)
    name = f"{target.name} + {draft.name}" if draft is not None else target.name
    return Pair(name, "openvino", target, draft, target_files.tokenizer())


def _load_neuron(options: PairOptions) -> Pair:
    from app.backends import neuron

    if options.target is None or options.draft is None:
        raise PairError("The neuron backend has no pair of its own; name one with --target DIR and --draft DIR.")
    for path in (options.target, options.draft):
        if not path.is_dir():
            raise PairError(f"{path} is no model directory; the neuron backend loads Hugging Face directories.")
    target_files, draft_files = _Files(options.target), _Files(options.draft)
    _check_shapes(target_files, draft_files)
    given = {
        "dtype": options.dtype,
        "tp_degree": options.tp_degree,
        "n_positions": options.n_positions,
        "windows": options.windows,
        "artifacts": options.artifacts,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    target, draft = neuron.load_pair(options.target, options.draft, **chosen)
    return Pair(f"{target.name} + {draft.name}", "neuron", target, draft, target_files.tokenizer())


_LOADERS: dict[str, Callable[[PairOptions], Pair]] = {"openvino": _load_openvino, "neuron": _load_neuron}


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


class _Files:
    """A model on disk: a GGUF, or a Hugging Face directory, and what can be learnt before loading it."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        from app.backends.checkpoint import read_config
        from app.backends.gguf_file import sidecar

        if not path.exists():
            raise PairError(f"There is no model at {path}; check the path (a .gguf file or a model directory).")
        self.path = path
        self.name = name or path.resolve().name.removesuffix(".gguf")
        self.directory = path if path.is_dir() else sidecar(path, cache_dir())
        self.config: LlamaConfig = read_config(self.directory)

    @property
    def files(self) -> list[Path]:
        return sorted(file for file in self.path.iterdir() if file.is_file()) if self.path.is_dir() else [self.path]

    def weights(self) -> Checkpoint:
        from app.backends.checkpoint import SafetensorsCheckpoint
        from app.backends.gguf_file import GgufCheckpoint

        return SafetensorsCheckpoint(self.path) if self.path.is_dir() else GgufCheckpoint(self.path, self.config)

    def kept_ids(self) -> NDArray[np.int64] | None:
        """The ids a trimmed output layer covers, ascending, or None where it covers the vocabulary."""
        from app.backends.checkpoint import SafetensorsCheckpoint

        if not self.config.kept_ids:
            return None
        ids: NDArray[np.int64] = SafetensorsCheckpoint(self.path).raw("kept_ids").astype("int64")
        if ids.shape != (self.config.kept_ids,) or ids[0] < 0 or ids[-1] >= self.config.vocab_size:
            raise PairError(f"The kept ids of {self.path} do not fit its configuration; fetch the draft again.")
        return ids

    def tokenizer(self) -> Tokenizer:
        from app.tokenizer import TextTokenizer

        return TextTokenizer(self.directory, self.config.stop_ids)


def cache_dir() -> Path:
    """Where graphs and metadata made from models are kept."""
    return models_dir() / "cache"


def _check_shapes(target: _Files, draft: _Files) -> None:
    if (draft.directory / "tokenizer.json").exists():
        ours, theirs = target.tokenizer(), draft.tokenizer()
        shared = min(ours.vocab_size, theirs.vocab_size)
        different = next((i for i in range(shared) if ours.piece(i) != theirs.piece(i)), None)
        if different is not None:
            raise PairError(
                f"{target.name} and {draft.name} have different tokenizers (token {different} is {ours.piece(different)!r} "
                f"in one and {theirs.piece(different)!r} in the other); choose a draft of the target's own family."
            )
    elif draft.config.vocab_size != target.config.vocab_size:
        raise PairError(
            f"{draft.name} was made for a vocabulary of {draft.config.vocab_size} tokens, {target.name} has "
            f"{target.config.vocab_size}; choose a draft made for this target."
        )


def _openvino(files: _Files, options: PairOptions, embeddings: _Files | None = None) -> Model:
    from app.backends.checkpoint import WithEmbeddings
    from app.backends.openvino import OpenVinoModel

    weights: Callable[[], Checkpoint] = files.weights
    sources = files.files
    if embeddings is not None and "model.embed_tokens.weight" not in files.weights():
        if embeddings.config.hidden_size != files.config.hidden_size:
            raise PairError(
                f"{files.name} has no embeddings and another width than {embeddings.name}; choose another draft."
            )
        weights = lambda: WithEmbeddings(files.weights(), embeddings.weights())  # noqa: E731
        sources = [*sources, *embeddings.files]
    return OpenVinoModel(
        files.config,
        weights,
        name=files.name,
        files=sources,
        cache_dir=cache_dir(),
        dtype=options.dtype or DEFAULT_DTYPE,
        threads=options.threads,
        n_positions=options.n_positions,
        kept_ids=files.kept_ids(),
    )
