"""How a pair comes to the OpenVINO engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.backends.checkpoints.model_files import ModelFiles
from app.backends.checkpoints.pair_loading import check_memory, loaded, pair_files
from app.engine.model import Model
from app.engine.pair import Pair
from app.errors import PairError
from app.pairs import memory
from app.pairs.options import PairOptions
from app.places import cache_dir

DEFAULT_DTYPE = "int8"
PEAK = 1.5
"""Of the weights: what a first start takes at most, while it packs them; a later one takes them once, beside pages of
files (`tests/test_memory_held.py` measures both). Copies for programs of fixed width are made only where memory is
free."""


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
    from app.backends.openvino import kept_graph
    from app.backends.openvino import model as openvino

    files = pair_files(options.target, options.draft, gives_states=True)
    dtype = options.dtype or DEFAULT_DTYPE
    if dtype not in (known := openvino.WEIGHT_BYTES):
        raise PairError(f"The OpenVINO backend has no precision {dtype!r}; choose one of {', '.join(known)}.")
    value_bytes = openvino.cached_value_bytes(dtype)
    states = files.draft is not None and files.draft.config.conditioned

    def peak(own: ModelFiles) -> float:
        precision, sources = _made_from(own, files.lender(own), options)
        return 1.0 if kept_graph.place(precision, states, sources, cache_dir()).exists() else PEAK

    def load(own: ModelFiles, embeddings: ModelFiles | None) -> Model:
        return load_model(own, embeddings, options, states=states, drafts=own is files.draft)

    check_memory(options, files, known[dtype], value_bytes, memory.free_memory(), freed, peak=peak)
    return lambda: loaded("openvino", files, load)


def load_model(
    own: ModelFiles, embeddings: ModelFiles | None, options: PairOptions, *, states: bool, drafts: bool = False
) -> Model:
    """One model. embeddings: the one whose it uses in place of its own; states: whether it shall give its own; drafts:
    whether it only drafts."""
    from app.backends.openvino import model as openvino

    dtype, files = _made_from(own, embeddings, options)
    return openvino.OpenVinoModel(
        own.config,
        lambda: own.weights(embeddings),
        name=own.name,
        files=files,
        cache_dir=cache_dir(),
        dtype=dtype,
        threads=options.threads,
        n_positions=options.n_positions,
        kept_ids=own.kept_ids(),
        states=states,
        drafts=drafts,
    )


def _made_from(own: ModelFiles, embeddings: ModelFiles | None, options: PairOptions) -> tuple[str, list[Path]]:
    """(a model's precision, the files its graph is made from)."""
    dtype = options.dtype or DEFAULT_DTYPE
    # Packed in 8 bits, it gains nothing from weights in 16, and its pass takes 1.2 to 1.4 times as long.
    precision = "int8" if dtype != "f32" and own.is_packed() else dtype
    return precision, [*own.files, *([] if embeddings is None else embeddings.files)]


def version() -> str:
    """The engine's."""
    import openvino

    return str(openvino.get_version())
