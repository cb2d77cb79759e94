"""In what a model's weights and values are held, and how many bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from app.backends.checkpoints.config import LlamaConfig
from app.backends.torch import int4
from app.errors import PairError

NAMES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "int4": None}
"""Precisions by name, and the type of their values; of int4 that is the device's own."""


@dataclass(frozen=True, slots=True)
class Precision:
    """values: the type of activations, caches and of weights that are not packed. packed: whether the layers' matrices
    are in 4 bits."""

    name: str
    values: Any
    packed: bool = False

    @property
    def unpacked(self) -> Precision:
        """For a draft stored in 8 bits: it is small already, and 4 would cost more of its guesses than of its time."""
        return Precision(next(name for name, values in NAMES.items() if values is self.values), self.values)

    def layer_bytes(self, config: LlamaConfig) -> int:
        size = int(self.values.itemsize)
        if self.packed:
            return int4.layer_bytes(config, size)
        return (config.num_parameters * size - self._ends(config)) // config.num_layers

    def end_bytes(self, config: LlamaConfig) -> int:
        """Of the embeddings; of a whole output layer too."""
        return config.vocab_size * config.hidden_size * int(self.values.itemsize)

    def weight_bytes(self, config: LlamaConfig) -> int:
        """Of the whole model."""
        if not self.packed:
            return config.num_parameters * int(self.values.itemsize)
        norm = config.hidden_size * int(self.values.itemsize)
        return config.num_layers * self.layer_bytes(config) + norm + self._ends(config)

    def _ends(self, config: LlamaConfig) -> int:
        return (1 if config.tied else 2) * self.end_bytes(config)


def choose(name: str | None, device: Any) -> Precision:
    """The precision asked for, or bf16 on an accelerator and f32 on the processor. Raises PairError."""
    own = torch.float32 if device.type == "cpu" else torch.bfloat16
    if name is None:
        name = "f32" if device.type == "cpu" else "bf16"
    if name not in NAMES:
        raise PairError(f"The torch backend has no precision {name!r}; choose one of {', '.join(NAMES)}.")
    if name == "int4":
        int4.check(device)
        return Precision(name, own, packed=True)
    return Precision(name, NAMES[name])
