"""Tiny models of the torch backend, on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint, WithEmbeddings
from app.backends.checkpoints.config import read_config
from app.backends.torch import model, placement, precision
from tests.support.llamas import TINY, save_directory, weights

CPU = torch.device("cpu")
F32 = precision.choose("f32", CPU)
IDS = np.random.default_rng(1).integers(0, 128, 80).tolist()


def draft_of(path: Path) -> model.TorchModel:
    target = SafetensorsCheckpoint(save_directory(path.parent / "embeddings", TINY, weights(TINY)))
    config = read_config(path)
    files = WithEmbeddings(SafetensorsCheckpoint(path), target)
    return placement.load(config, files, name="draft", device=CPU, precision=F32, exact=False, states=True)


def model_of(path: Path, **options: Any) -> model.TorchModel:
    chosen = precision.choose(options.pop("dtype", "f32"), CPU)
    options = {"device": CPU, "precision": chosen, "exact": False, **options}
    return placement.load(read_config(path), SafetensorsCheckpoint(path), name="tiny", **options)
