"""What of a checkpoint's configuration and of the settings can be refused before minutes of compiling."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from pathlib import Path
from typing import Any

from app.backends.checkpoints.config import read_json
from app.errors import PairError
from app.neuron.catalogue import NXD_INFERENCE, ModelConfig, read_config

PLAIN_ACTIVATIONS = ("silu", "swish")  # two names of one function
IGNORED = {
    # key of config.json: what both libraries, or one of them, would compute without a word otherwise
    "attention_bias": "biases in its attention",
    "mlp_bias": "biases in its MLP",
    "sliding_window": "a sliding window of attention",
}


def checkpoint(directory: Path) -> ModelConfig:
    """The checkpoint's shape. Raises PairError for what the libraries would load wrong, or only notice late."""
    directory = Path(directory)
    if not directory.is_dir():
        raise PairError(f"There is no model directory {directory}; give the folder of a downloaded checkpoint.")
    raw = read_json(directory / "config.json")
    if raw.get("playground", {}).get("kept_ids"):
        raise PairError(
            f"{directory} is a draft with a trimmed vocabulary, made for the openvino backend; choose a "
            "plain Llama draft."
        )
    config = read_config(directory / "config.json")
    _check_positions(directory, raw)
    if config.family == "llama":
        _check_arithmetic(directory, raw)
    return config


def _check_positions(directory: Path, raw: dict[str, Any]) -> None:
    if raw.get("rope_parameters") and "rope_theta" not in raw:
        raise PairError(
            f"{directory}/config.json was written by transformers 5, and older ones would miss its "
            "rope_theta and load the "
            "model wrong; copy rope_theta (and rope_scaling) to its top level, as the original checkpoint has them."
        )
    rope = raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise PairError(f"{directory} uses {kind} rope scaling, which no Neuron library knows; choose another model.")
    if raw.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise PairError(
            f"{directory} rotates a part of its heads only, which no Neuron library does; choose another model."
        )


def _check_arithmetic(directory: Path, raw: dict[str, Any]) -> None:
    """What makes a model another function of its weights than a plain Llama, and is read by neither library, or by
    one."""
    for key, what in IGNORED.items():
        if raw.get(key):
            raise PairError(
                f"{directory} has {what} ({key}), which would be left out of every pass; choose another model."
            )
    activation = raw.get("hidden_act") or "silu"
    if activation not in PLAIN_ACTIVATIONS:
        raise PairError(
            f"{directory} has the activation {activation}, and SiLU would be computed; choose another model."
        )
    if raw.get("quantization_config"):
        raise PairError(
            f"{directory} holds quantised weights (quantization_config), which would be read as plain ones; choose the "
            "original checkpoint."
        )


def checked_windows(windows: Ids[int], n_positions: int, library: str) -> tuple[int, ...]:
    """The windows, ascending. Raises PairError for one that cannot be compiled."""
    # A window of NxD Inference may not begin at position 0, nor be as long as a prefill.
    longest = n_positions - 1 if library == NXD_INFERENCE else n_positions
    if not windows or min(windows) < 2 or max(windows) > longest:
        raise PairError(
            f"Windows {', '.join(map(str, windows)) or '(none)'} cannot be compiled; choose one or more "
            f"of 2 to {longest}."
        )
    return tuple(sorted(set(windows)))  # transformers-neuronx searches the list by bisection
