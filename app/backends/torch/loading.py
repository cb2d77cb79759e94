"""How a pair comes to PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from app.backends.checkpoints.model_files import ModelFiles
from app.backends.checkpoints.pair_loading import check_memory, loaded, pair_files
from app.engine.model import Model
from app.engine.pair import Pair
from app.errors import PairError
from app.pairs import memory
from app.pairs.options import PairOptions


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
    try:
        from app.backends.torch import devices, placement, ranks
    except ImportError as error:
        raise PairError(
            f"The torch backend's packages are not installed ({error}); start with ./launch.sh, which installs them, or "
            "pip install -r app/backends/requirements-torch.txt."
        ) from None
    device = devices.choose_device(options.device)
    dtype = devices.choose_dtype(options.dtype, device)
    devices.use_threads(options.threads)
    parts = options.tp_degree or 1

    files = pair_files(options.target, options.draft, gives_states=False)
    if parts > 1:
        both = [one for one in (files.target, files.draft) if one is not None]
        ranks.check(parts, [(each.name, each.config.num_kv_heads, each.config.intermediate_size) for each in both])
        device = ranks.own_device(device)
    size = devices.DTYPES[dtype].itemsize / (parts if device.type == "cuda" else 1)  # the processor holds all parts
    free, where = devices.free_memory(device), "memory"
    if free is None:
        free = memory.free_memory()
    elif device.index is None:  # what the GPUs do not hold, the processor's memory does
        free, where = free + (memory.free_memory() or 0), "memory on all devices"
    check_memory(options, files, size, size, free, freed, where)

    def load() -> Pair:
        joined = ranks.join(parts, device) if parts > 1 else None

        def model(own: ModelFiles, embeddings: ModelFiles | None) -> Model:
            return placement.load(
                own.config,
                own.weights(embeddings),
                name=own.name,
                device=device,
                dtype=dtype,
                n_positions=options.n_positions,
                kept_ids=own.kept_ids(),
                exact=own is files.target,  # a draft's rows may be what they like: its q is what was drawn from
                ranks=joined,
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
        return pair

    return load
