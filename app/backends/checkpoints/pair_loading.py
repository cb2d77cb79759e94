"""What the engines that read checkpoints share: a pair's files checked against each other, its memory, its loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.backends.checkpoints.model_files import ModelFiles, check_pair
from app.engine.model import Model
from app.engine.pair import Pair
from app.engine.restricted import restricted
from app.errors import PairError
from app.pairs import memory
from app.pairs.embedded import (
    EMBEDDED_DRAFT,
    EMBEDDED_DRAFT_NAME,
    EMBEDDED_NAME,
    EMBEDDED_PLAIN_DRAFT,
    EMBEDDED_PLAIN_DRAFT_NAME,
    embedded_target,
)
from app.pairs.options import PairOptions
from app.places import cache_dir


@dataclass(frozen=True, slots=True)
class PairFiles:
    """A pair's files, checked. never: ids the draft may not propose, since they mean another thing to the target."""

    target: ModelFiles
    draft: ModelFiles | None
    never: frozenset[int] = frozenset()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of this pair."""
        notes = self.target.tokenizer().notes
        if self.draft is not None and self.never:
            notes += (
                f"{len(self.never)} special tokens have other names in {self.draft.name} than in {self.target.name}; "
                "it never proposes them.",
            )
        return notes

    def lender(self, own: ModelFiles) -> ModelFiles | None:
        """The model whose embeddings this one of the pair uses in place of its own; None: it has its own."""
        return self.target if own.lacks_embeddings() else None


def pair_files(
    target: Path | None,
    draft: Path | None,
    target_name: str | None = None,
    draft_name: str | None = None,
    *,
    gives_states: bool,
) -> PairFiles:
    """The models of a pair, checked against each other; without a target the embedded one, and its draft. gives_states:
    whether a draft may read its target's states here."""
    if target is None:
        target, target_name = embedded_target(), EMBEDDED_NAME
        if draft is None:
            draft, draft_name = EMBEDDED_DRAFT, EMBEDDED_DRAFT_NAME
            if not gives_states:
                draft, draft_name = EMBEDDED_PLAIN_DRAFT, EMBEDDED_PLAIN_DRAFT_NAME
    files = ModelFiles(target, cache_dir(), target_name)
    if files.lacks_embeddings():
        raise PairError(f"{files.name} has no embeddings, so it can only be a draft; name its target by --target.")
    files.tokenizer().check()
    if draft is None:
        return PairFiles(files, None)
    draft_files = ModelFiles(draft, cache_dir(), draft_name)
    never = check_pair(files, draft_files)
    if draft_files.lacks_embeddings() and draft_files.config.hidden_size != files.config.hidden_size:
        raise PairError(
            f"{draft_files.name} has no embeddings and another width than {files.name}; choose another draft."
        )
    if draft_files.config.conditioned and draft_files.config.hidden_size != files.config.hidden_size:
        raise PairError(
            f"{draft_files.name} reads states of width {draft_files.config.hidden_size}, and those of {files.name} are "
            f"{files.config.hidden_size} wide; choose a draft made for this target."
        )
    if draft_files.config.conditioned and not gives_states:
        raise PairError(
            f"{draft_files.name} reads its target's hidden states, which this backend does not give; "
            "choose a draft that "
            "reads tokens alone, such as assets/plain-draft for the embedded target, or --backend openvino or torch."
        )
    return PairFiles(files, draft_files, never)


def check_memory(
    options: PairOptions,
    files: PairFiles,
    weight_bytes: float | Callable[[ModelFiles], int],
    cache_bytes: int,
    free: int | None,
    freed: int,
    where: str = "memory",
    peak: Callable[[ModelFiles], float] = lambda _: 1.0,
) -> None:
    """Two caches of the target, one for each arm, and one of the draft, all as long as they may become.

    weight_bytes: of a parameter, or what tells the bytes of a model's weights. peak: see `memory.Need`. Raises
    PairError."""
    models = [(files.target, 2), *([] if files.draft is None else [(files.draft, 1)])]
    longest = min(model.config.n_positions for model, _ in models)
    n_positions = min(options.n_positions or longest, longest)
    needs = []
    for model, sequences in models:
        config = model.config
        position = 2 * config.num_layers * config.num_kv_heads * config.head_size * cache_bytes
        weights = weight_bytes(model) if callable(weight_bytes) else int(config.num_parameters * weight_bytes)
        needs.append(memory.Need(model.name, weights, sequences * position * n_positions, peak(model)))
    memory.check(needs, None if free is None else free + freed, n_positions, where)


def loaded(
    backend: str,
    files: PairFiles,
    load_model: Callable[[ModelFiles, ModelFiles | None], Model],
) -> Pair:
    """load_model: given the files, and those of the model whose embeddings it uses in place of its own."""
    target, tokenizer = load_model(files.target, None), files.target.tokenizer()
    if files.draft is None:
        return Pair(target.name, backend, target, None, tokenizer, notes=files.notes)
    draft = load_model(files.draft, files.lender(files.draft))
    draft = restricted(draft, target.vocab_size, files.never)
    return Pair(f"{target.name} + {draft.name}", backend, target, draft, tokenizer, notes=files.notes)


def identity_notes(target: Model) -> tuple[str, ...]:
    """What the self-check at load found of the target."""
    difference = getattr(target, "row_difference", None)
    if difference is None:
        return ()
    if difference == 0:
        return (f"{target.name} gave the same bits for a row in every window, in a check at load.",)
    return (
        f"{target.name} gave logits that differ by up to {difference:.1g} with the window a row is "
        "scored in, in a check at "
        "load: at temperature 0 the arms may part where two tokens are that near.",
    )
