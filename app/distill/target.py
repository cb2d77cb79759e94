"""The target of a distillation: its weights, its text, and the chat template around a user's turn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints.checkpoint import Checkpoint, SafetensorsCheckpoint
from app.backends.checkpoints.config import read_config
from app.backends.checkpoints.gguf_file import GgufCheckpoint, sidecar
from app.errors import PairError
from app.pairs.tokenizer import TextTokenizer


class Target:
    """A Llama with a chat template, from a GGUF or a Hugging Face directory.

    opening, closing: the template's ids before and after what the user says. Raises PairError.
    """

    def __init__(self, path: Path, cache_dir: Path) -> None:
        if not path.exists():
            raise PairError(f"There is no model at {path}; check the path (a .gguf file or a model directory).")
        self.path, self.name = path, path.resolve().name.removesuffix(".gguf")
        directory = path if path.is_dir() else sidecar(path, cache_dir)
        self.directory, self.config = directory, read_config(directory)
        self.tokenizer = TextTokenizer(directory, self.config.stop_ids)
        if not self.tokenizer.has_chat_template:
            raise PairError(f"{self.name} has no chat template, so it cannot write instructions; choose a chat model.")
        self.weights: Checkpoint = SafetensorsCheckpoint(path) if path.is_dir() else GgufCheckpoint(path, self.config)
        one, other = (self.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in ("a", "1"))
        begin = _agree(one, other)
        self.opening = tuple(one[:begin])
        self.closing = tuple(one[len(one) - _agree(one[begin:][::-1], other[begin:][::-1]) :])

    @property
    def output_layer(self) -> NDArray[np.float32]:
        """[vocab_size, hidden_size]."""
        tied = self.config.tied or "lm_head.weight" not in self.weights
        return self.weights.tensor("model.embed_tokens.weight" if tied else "lm_head.weight")

    @property
    def mark(self) -> str:
        """What tells this target from another, wherever its files lie: name, shape, template, and the small weights
        that every training changes."""
        norms = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm")
        digest = hashlib.sha256(repr((self.config, self.opening, self.closing)).encode())
        for name in norms:
            digest.update(self.weights.tensor(f"{name}.weight").tobytes())
        return f"{self.name} {digest.hexdigest()[:24]}"

    def text(self, token_ids: Iterable[int]) -> str:
        return b"".join(self.tokenizer.piece(int(i)) for i in token_ids).decode("utf-8", "replace")


def _agree(one: list[int], other: list[int]) -> int:
    """How many ids both lists begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
