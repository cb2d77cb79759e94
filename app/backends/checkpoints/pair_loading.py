"""What the engines that read checkpoints share: a pair's files checked against each other, its memory, its loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.backends.checkpoints.model_files import ModelFiles, check_pair
from app.engine.model import Model
from app.engine.pair import Pair
from app.errors import PairError
from app.pairs import memory
from app.pairs.embedded import EMBEDDED_DRAFT, EMBEDDED_DRAFT_NAME, EMBEDDED_NAME, embedded_target
from app.pairs.options import PairOptions
from app.places import cache_dir


def pair_files(
    target: Path | None, draft: Path | None, target_name: str | None = None, draft_name: str | None = None
) -> tuple[ModelFiles, ModelFiles | None]:
    """The models of a pair, checked against each other; without a target the embedded one, and its draft."""
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


def check_memory(
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


def loaded(
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
