"""What the conformance table is held against: a tiny model of any variant, its logits by the default engine, and a
measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.backends.checkpoints.model_files import ModelFiles
from app.backends.openvino.model import OpenVinoModel
from tests.support.llamas import TINY, save_directory, weights

IDS = [5, 17, 3, 99, 64, 2, 2, 120, 31, 8] * 8
LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}
Tensors = dict[str, NDArray[Any]]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"


def logits(path: Path, cache: Path) -> NDArray[np.float32]:
    """What the default engine makes of the model at `path`, in float32."""
    files = ModelFiles(path, cache)
    model = OpenVinoModel(files.config, files.weights, name="tiny", dtype="f32")
    return model.new_sequence().forward(IDS, len(IDS))


def agree(ours: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(ours, expected, atol=1e-3 * np.abs(expected).max())


def directory(path: Path, change: dict[str, Any]) -> tuple[dict[str, Any], Tensors]:
    config = {**TINY, **change}
    tensors = weights(config, bias=bool(change.get("attention_bias")))
    save_directory(path, config, tensors)
    return config, tensors
