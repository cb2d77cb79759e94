"""How a pair comes to PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from app.backends.checkpoints.model_files import ModelFiles
from app.backends.checkpoints.pair_loading import check_memory, identity_notes, loaded, pair_files
from app.engine.model import Model
from app.engine.pair import Pair
from app.errors import PairError
from app.pairs import memory
from app.pairs.options import PairOptions

PEAK = 1.3
"""Of the weights: what loading to the processor takes at most (measured in bf16: 1.19 at 47 M parameters, 1.22 at
1.1 B)."""
NEURON_ONLY = ("windows", "artifacts", "neuron_library")


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
    try:
        from app.backends.torch import devices, placement, precision, ranks
    except ImportError as error:
        raise PairError(
            f"The torch backend's packages are not installed ({error}); start with ./launch.sh, which "
            "installs them, or "
            "pip install -r app/backends/requirements-torch.txt."
        ) from None
    device = devices.choose_device(options.device)
    chosen = precision.choose(options.dtype, device)
    devices.use_threads(options.threads)
    parts = options.tp_degree or 1

    files = pair_files(options.target, options.draft, gives_states=True)
    if parts > 1:
        both = [one for one in (files.target, files.draft) if one is not None]
        ranks.check(parts, [(each.name, each.config.num_kv_heads, each.config.intermediate_size) for each in both])
        device = ranks.own_device(device)

    def precision_of(model: ModelFiles) -> precision.Precision:
        return chosen.unpacked if model.is_packed() else chosen

    share = parts if device.type == "cuda" else 1  # the processor holds all parts
    free, where = devices.free_memory(device), "memory"
    if free is None:
        free = memory.free_memory()
    elif device.index is None:  # what the GPUs do not hold, the processor's memory does
        free, where = free + (memory.free_memory() or 0), "memory on all devices"
    check_memory(
        options,
        files,
        lambda model: int(precision_of(model).weight_bytes(model.config) / share),
        chosen.values.itemsize / share,
        free,
        freed,
        where,
        peak=lambda _: PEAK if device.type == "cpu" else 1.0,
    )

    def load() -> Pair:
        joined = ranks.join(parts, device, written(options)) if parts > 1 else None

        def model(own: ModelFiles, embeddings: ModelFiles | None) -> Model:
            return placement.load(
                own.config,
                own.weights(embeddings),
                name=own.name,
                device=device,
                precision=precision_of(own),
                n_positions=options.n_positions,
                kept_ids=own.kept_ids(),
                exact=own is files.target,  # a draft's rows may be what they like: its q is what was drawn from
                ranks=joined,
                states=files.draft is not None and files.draft.config.conditioned,
            )

        pair = loaded("torch", files, model)
        if joined is not None and joined.part.rank > 0:
            try:
                joined.follow()
            except ranks.RankGone as error:
                raise PairError(str(error)) from None
            raise SystemExit(0)
        if joined is not None:
            joined.begin()
        notes = (*pair.notes, *identity_notes(pair.target))
        return replace(pair, notes=notes, stays="" if joined is None else ranks.STAYS)

    return load


def written(options: PairOptions) -> str:
    """The options for a process of tensor parallelism, as `app.backends.torch.rank` reads them."""
    values = {each.name: getattr(options, each.name) for each in fields(options)}
    kept = {name: value for name, value in values.items() if value is not None and name not in NEURON_ONLY}
    return json.dumps({name: str(value) if isinstance(value, Path) else value for name, value in kept.items()})
