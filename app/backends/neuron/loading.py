"""How a pair comes to the NeuronCores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from app.backends.checkpoints.model_files import ModelFiles, check_pair
from app.engine.pair import Pair
from app.errors import PairError
from app.pairs.options import PairOptions, cache_dir

STAYS = "A process keeps the NeuronCores it first took; start the playground with that pair instead, by --pair FILE."


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
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
        return Pair(
            name=f"{target.name} + {draft.name}",
            backend="neuron",
            target=target,
            draft=draft,
            tokenizer=target_files.tokenizer(),
            reference_loop=partial(neuron.run_upstream, target, draft),
            stays=STAYS,
        )

    return load_pair
