"""A model on disk, a GGUF or a Hugging Face directory, and what can be learnt before its weights are read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints.checkpoint import Checkpoint, SafetensorsCheckpoint, WithEmbeddings
from app.backends.checkpoints.config import LlamaConfig, read_config
from app.backends.checkpoints.directory import not_plain, without_config
from app.backends.checkpoints.gguf_file import BESIDE, GgufCheckpoint, Stored, parts, sidecar
from app.errors import PairError
from app.pairs.tokenizer import TextTokenizer
from app.wording import shown

_TOKENIZER_FILES = ("tokenizer.json", *BESIDE, "special_tokens_map.json", "generation_config.json")


class ModelFiles:
    """`directory` holds its configuration and tokenizer: the model's own, or made from a GGUF's metadata.

    `config` is what its files hold, checked: every tensor is there, in the shape it says and in a type that can be
    read.
    """

    def __init__(self, path: Path, cache_dir: Path, name: str | None = None) -> None:
        """cache_dir: where what is made from a GGUF is kept. Raises PairError."""
        if not path.exists():
            raise PairError(f"There is no model at {path}; check the path (a .gguf file or a model directory).")
        if sentence := not_plain(path):
            raise PairError(sentence)
        self.path = path
        self.name = name or _name(path)
        if path.is_dir() and not (path / "config.json").exists() and (sentence := without_config(path)):
            raise PairError(sentence)
        if path.is_file() and path.suffix in (".safetensors", ".bin", ".pth", ".pt", ".json", ".jinja", ".model"):
            raise PairError(f"{path} is a file of a model directory; name the directory: {path.parent}.")
        self.directory = path if path.is_dir() else sidecar(path, cache_dir)
        own: SafetensorsCheckpoint | GgufCheckpoint
        own = SafetensorsCheckpoint(path) if path.is_dir() else GgufCheckpoint(path, read_config(self.directory))
        self._own = own
        self.config: LlamaConfig = own.config

    @property
    def files(self) -> list[Path]:
        """All that its graph is made from."""
        return (
            sorted(file for file in self.path.iterdir() if file.is_file()) if self.path.is_dir() else parts(self.path)
        )

    def weights(self, embeddings: ModelFiles | None = None) -> Checkpoint:
        """The checkpoint; what it has no embeddings for is looked up in those of `embeddings`."""
        return self._own if embeddings is None else WithEmbeddings(self._own, embeddings.weights())

    def lacks_embeddings(self) -> bool:
        return "model.embed_tokens.weight" not in self._own

    def is_packed(self) -> bool:
        """Whether its matrices are stored in 8 bits, as `distill all` writes them."""
        return self.path.is_dir() and "lm_head.weight.scales" in self._own

    @property
    def stored(self) -> Stored | None:
        """How a GGUF stores its weights; None for a directory."""
        return self._own.stored() if isinstance(self._own, GgufCheckpoint) else None

    def kept_ids(self) -> NDArray[np.int64] | None:
        """The ids a trimmed output layer covers, ascending, or None where it covers the vocabulary."""
        if not self.config.kept_ids:
            return None
        if not isinstance(self._own, SafetensorsCheckpoint) or "kept_ids" not in self._own:
            raise PairError(f"{self.path} lacks the ids its output layer covers; fetch the draft again.")
        ids: NDArray[np.int64] = self._own.raw("kept_ids").astype("int64")
        if ids.shape != (self.config.kept_ids,) or ids[0] < 0 or ids[-1] >= self.config.vocab_size:
            raise PairError(f"The kept ids of {self.path} do not fit its configuration; fetch the draft again.")
        return ids

    def tokenizer(self) -> TextTokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self.directory, self.config.stop_ids)


def _name(path: Path) -> str:
    """A model's name by where it lies: what the Hub's tools and ours fetch lies in a folder named by its commit."""
    absolute = path if path.is_dir() and "--" in path.parent.name else path.resolve()
    for folder in (absolute.parent, absolute.parent.parent):
        if path.is_dir() and "--" in folder.name:
            return shown(folder.name.rpartition("--")[2])
    return shown(absolute.name.removesuffix(".gguf"))


def check_pair(target: ModelFiles, draft: ModelFiles) -> frozenset[int]:
    """The ids that mean one thing to the target and another to the draft, both special: never to be proposed.

    Raises PairError unless the draft's other tokens are the target's, id by id. Names and sizes are not compared:
    either vocabulary may be padded, and a draft without a tokenizer of its own was made for one target.
    """
    if not (draft.directory / "tokenizer.json").exists():
        if draft.config.vocab_size != target.config.vocab_size:
            raise PairError(
                f"{draft.name} was made for a vocabulary of {draft.config.vocab_size} tokens, {target.name} has "
                f"{target.config.vocab_size}; choose a draft made for this target."
            )
        return frozenset()
    ours, theirs = target.tokenizer(), draft.tokenizer()
    shared = min(ours.vocab_size, theirs.vocab_size)
    different = [i for i in range(shared) if ours.piece(i) != theirs.piece(i)]
    wrong = next((i for i in different if not (ours.is_added(i) and theirs.is_added(i))), None)
    # two vocabularies that share nothing but specials have no draft in common
    if wrong is None and 2 * len(different) > shared:
        wrong = different[0]
    if wrong is not None:
        raise PairError(
            f"{target.name} and {draft.name} have different tokenizers (token {wrong} is {ours.piece(wrong)!r} "
            f"in one and {theirs.piece(wrong)!r} in the other); choose a draft of the target's own family."
        )
    return frozenset(different)
