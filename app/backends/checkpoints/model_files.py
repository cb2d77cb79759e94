"""A model on disk, a GGUF or a Hugging Face directory, and what can be learnt before its weights are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints.checkpoint import (
    Checkpoint,
    LlamaConfig,
    SafetensorsCheckpoint,
    WithEmbeddings,
    read_config,
)
from app.backends.checkpoints.gguf_file import GgufCheckpoint, sidecar
from app.engine.model import Tokenizer
from app.errors import PairError


class ModelFiles:
    """`directory` holds its configuration and tokenizer: the model's own, or made from a GGUF's metadata."""

    def __init__(self, path: Path, cache_dir: Path, name: str | None = None) -> None:
        """cache_dir: where what is made from a GGUF is kept. Raises PairError."""
        if not path.exists():
            raise PairError(f"There is no model at {path}; check the path (a .gguf file or a model directory).")
        self.path = path
        self.name = name or path.resolve().name.removesuffix(".gguf")
        self.directory = path if path.is_dir() else sidecar(path, cache_dir)
        self.config: LlamaConfig = read_config(self.directory)

    @property
    def files(self) -> list[Path]:
        return sorted(file for file in self.path.iterdir() if file.is_file()) if self.path.is_dir() else [self.path]

    def weights(self, embeddings: ModelFiles | None = None) -> Checkpoint:
        """The checkpoint; what it has no embeddings for is looked up in those of `embeddings`."""
        own = SafetensorsCheckpoint(self.path) if self.path.is_dir() else GgufCheckpoint(self.path, self.config)
        return own if embeddings is None else WithEmbeddings(own, embeddings.weights())

    def lacks_embeddings(self) -> bool:
        return self.path.is_dir() and "model.embed_tokens.weight" not in self.weights()

    def is_packed(self) -> bool:
        """Whether its matrices are stored in 8 bits, as `distill pack` writes them."""
        return self.path.is_dir() and "lm_head.weight.scales" in self.weights()

    def kept_ids(self) -> NDArray[np.int64] | None:
        """The ids a trimmed output layer covers, ascending, or None where it covers the vocabulary."""
        if not self.config.kept_ids:
            return None
        ids: NDArray[np.int64] = SafetensorsCheckpoint(self.path).raw("kept_ids").astype("int64")
        if ids.shape != (self.config.kept_ids,) or ids[0] < 0 or ids[-1] >= self.config.vocab_size:
            raise PairError(f"The kept ids of {self.path} do not fit its configuration; fetch the draft again.")
        return ids

    def tokenizer(self) -> Tokenizer:
        from app.pairs.tokenizer import TextTokenizer

        return TextTokenizer(self.directory, self.config.stop_ids)


def check_pair(target: ModelFiles, draft: ModelFiles) -> None:
    """Raise PairError unless the draft's tokens are the target's, id by id.

    Names and sizes are not compared: either vocabulary may be padded, and a draft without a tokenizer of its own was
    made for one target.
    """
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
