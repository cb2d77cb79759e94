"""How a pair comes to llama.cpp: GGUFs as they are stored. A draft in a directory runs on the default engine beside
them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.backends.checkpoints.model_files import ModelFiles
from app.backends.checkpoints.pair_loading import PairFiles, check_memory, identity_notes, loaded, pair_files
from app.backends.llamacpp.library import library
from app.backends.llamacpp.model import CACHED_VALUE_BYTES, LlamaCppModel
from app.engine.model import Model
from app.engine.pair import Pair
from app.errors import PairError
from app.pairs import memory
from app.pairs.options import PairOptions


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
    library()
    files = pair_files(options.target, options.draft, gives_states=False)
    check(options, files, freed)

    def model(own: ModelFiles, embeddings: ModelFiles | None) -> Model:
        if own.stored is None:
            from app.backends.openvino.loading import load_model

            return load_model(own, embeddings, options, states=False)
        return gguf_model(own, options)

    def load() -> Pair:
        pair = loaded("llamacpp", files, model)
        return replace(pair, notes=(*pair.notes, *identity_notes(pair.target)))

    return load


def check(options: PairOptions, files: PairFiles, freed: int) -> None:
    """Raise PairError for what llama.cpp cannot run here."""
    if options.dtype is not None:
        raise PairError(
            f"llama.cpp computes a GGUF as it is stored; leave --dtype {options.dtype} out, or choose "
            "--backend openvino."
        )
    if files.target.stored is None:
        raise PairError(
            f"{files.target.name} is a directory, and llama.cpp runs GGUF files; choose a GGUF of it, or "
            "--backend openvino."
        )
    check_memory(options, files, _weights, CACHED_VALUE_BYTES, memory.free_memory(), freed)


def gguf_model(files: ModelFiles, options: PairOptions) -> LlamaCppModel:
    assert files.stored is not None
    return LlamaCppModel(
        files.files[0],
        files.config,
        name=files.name,
        dtype=files.stored.kind,
        size=files.stored.size,
        threads=options.threads,
        n_positions=options.n_positions,
    )


def _weights(files: ModelFiles) -> int:
    return files.config.num_parameters if files.stored is None else files.stored.size
