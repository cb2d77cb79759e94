"""What of a checkpoint and of the settings can be refused before minutes of compiling."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from pathlib import Path

from app.backends.checkpoints.checkpoint import read_json
from app.errors import PairError
from app.neuron.catalogue import ModelConfig, read_config

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",  # a file, or the folder of a split checkpoint
    "pytorch_model.bin.index.json",
)


def checkpoint(directory: Path) -> ModelConfig:
    """The checkpoint's shape. Raises PairError for what the library would load wrong, or only notice late."""
    directory = Path(directory)
    if not directory.is_dir():
        raise PairError(f"There is no model directory {directory}; give the folder of a downloaded checkpoint.")
    raw = read_json(directory / "config.json")
    config = read_config(directory / "config.json")
    if not any((directory / name).exists() for name in WEIGHT_FILES):
        raise PairError(
            f"{directory} holds no weights (model.safetensors or pytorch_model.bin); fetch the model again."
        )
    if raw.get("rope_parameters") and "rope_theta" not in raw:
        raise PairError(
            f"{directory}/config.json was written by transformers 5, and older ones would miss its rope_theta and load the "
            "model wrong; copy rope_theta (and rope_scaling) to its top level, as the original checkpoint has them."
        )
    rope = raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise PairError(
            f"{directory} uses {kind} rope scaling, which transformers-neuronx does not know; choose another."
        )
    if raw.get("head_dim") and raw["head_dim"] * config.num_heads != config.hidden_size:
        raise PairError(
            f"{directory} has heads of {raw['head_dim']} where transformers-neuronx takes {config.head_dim} for granted; "
            "choose another model."
        )
    if raw.get("playground", {}).get("kept_ids"):
        raise PairError(
            f"{directory} is a draft with a trimmed vocabulary, made for the openvino backend; choose a plain Llama draft."
        )
    return config


def checked_windows(windows: Ids[int], n_positions: int) -> tuple[int, ...]:
    if not windows or min(windows) < 2 or max(windows) > n_positions:
        raise PairError(
            f"Windows {', '.join(map(str, windows)) or '(none)'} cannot be compiled; choose one or more of 2 to {n_positions}."
        )
    return tuple(sorted(set(windows)))  # the library searches the list by bisection
