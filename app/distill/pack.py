"""A trained draft as files: packed for this playground, or a plain Hugging Face checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from app.backends.checkpoints import int8
from app.backends.checkpoints.checkpoint import Checkpoint, SafetensorsCheckpoint
from app.backends.checkpoints.config import LlamaConfig
from app.errors import PairError

FORMAT = 3  # 2: reads tokens alone
MAX_BYTES = 25_000_000


def config_json(
    target: LlamaConfig, num_layers: int, name: str, kept: int | None, conditioned: bool = False
) -> dict[str, Any]:
    """Hugging Face's configuration; with `kept`, of a packed draft that covers that many ids and has no embeddings."""
    stops = list(target.stop_ids)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_size": target.hidden_size,
        "intermediate_size": target.intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": target.num_heads,
        "num_key_value_heads": target.num_kv_heads,
        "head_dim": target.head_size,
        "rms_norm_eps": target.rms_norm_eps,
        "rope_theta": target.rope_theta,
        "max_position_embeddings": target.n_positions,
        "vocab_size": target.vocab_size,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
        "torch_dtype": "float16",
    }
    if (scaling := target.rope_scaling) is not None:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_n_positions,
        }
    if kept is not None:
        config["playground"] = {"embeddings": "target", "kept_ids": kept, "target": name, "format": FORMAT}
        config["playground"]["conditioned"] = conditioned
    return config


def pack(
    state: Mapping[str, NDArray[Any]],
    kept_ids: NDArray[np.int32],
    unwanted: NDArray[np.floating[Any]],
    target: LlamaConfig,
    name: str,
    folder: Path,
) -> None:
    """Writes config.json, model.safetensors and SHA256SUMS. state: Hugging Face names, lm_head [len(kept_ids), D].

    Matrices are stored as the engine's int8, with scales beside them under their name and `.scales`.

    unwanted: see `away`; kept in the file under its own name for `export`, the engine does not read it. Raises
    PairError where the draft would not fit the size the repository allows.
    """
    assert (np.diff(kept_ids) > 0).all(), "kept ids ascend"
    assert state["lm_head.weight"].shape == (len(kept_ids), target.hidden_size)
    tensors: dict[str, NDArray[Any]] = {}
    for key, value in state.items():
        if value.ndim == 2:
            values, scales = int8.quantised(value.astype(np.float32), key)
            tensors[key], tensors[f"{key}.scales"] = values.reshape(value.shape), scales[:, :, 0]
        else:
            tensors[key] = value.astype(np.float16)
    if bad := [key for key, value in tensors.items() if not np.isfinite(value).all()]:
        raise PairError(f"The draft's {bad[0]} does not fit half precision; train it again with a lower rate.")
    tensors["kept_ids"] = np.asarray(kept_ids, np.int32)
    tensors["unwanted"] = np.asarray(unwanted, np.float32)
    size = sum(value.nbytes for value in tensors.values())
    if size > MAX_BYTES:
        raise PairError(
            f"The packed draft would take {size / 1e6:.1f} MB of at most {MAX_BYTES / 1e6:.0f}; keep "
            "fewer ids or layers."
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = config_json(target, _num_layers(state), name, len(kept_ids), "fusion.weight" in state)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    write_sums(folder)


def write_sums(folder: Path) -> None:
    """SHA256SUMS of configuration and weights, as sha256sum writes and checks it."""
    names = ("config.json", "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def away(hidden: NDArray[np.floating[Any]], margin: float = 40.0) -> NDArray[np.float64]:
    """A row w [D] with hidden @ w about -margin on every state of `hidden` [n, D]: the output row of an unwanted id.

    A linear layer cannot say -inf. But final hidden states share a strong mean, so one direction is negative on all.
    """
    states = hidden.astype(np.float64)
    gram = states.T @ states
    gram[np.diag_indices_from(gram)] += 1e-4 * gram.diagonal().mean()
    row: NDArray[np.float64] = np.linalg.solve(gram, states.sum(0)) * -margin
    return row


def export(packed: SafetensorsCheckpoint, target: Checkpoint, folder: Path) -> None:
    """A plain Hugging Face checkpoint: the target's embeddings, and an output layer over the whole vocabulary.

    Ids the draft does not cover get the row `unwanted`: their probability is next to nothing, not exactly 0.
    """
    config = packed.config
    if config.conditioned:
        raise PairError(
            "This draft reads its target's hidden states, which a plain checkpoint cannot; export one "
            "that reads tokens "
            "alone, such as assets/plain-draft."
        )
    rows = np.tile(packed.raw("unwanted"), (config.vocab_size, 1))
    rows[packed.raw("kept_ids")] = packed.tensor("lm_head.weight")
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    names = [f"model.layers.{i}.{part}.weight" for i in range(config.num_layers) for part in parts]
    tensors = {name: packed.tensor(name) for name in (*names, "model.norm.weight")}
    tensors |= {"lm_head.weight": rows, "model.embed_tokens.weight": target.tensor("model.embed_tokens.weight")}
    folder.mkdir(parents=True, exist_ok=True)
    plain = config_json(config, config.num_layers, "", None)
    (folder / "config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    halves = {name: np.ascontiguousarray(value, np.float16) for name, value in tensors.items()}
    save_file(halves, str(folder / "model.safetensors"), {"format": "pt"})
    write_sums(folder)


def _num_layers(state: Mapping[str, Any]) -> int:
    return 1 + max(int(key.split(".")[2]) for key in state if key.startswith("model.layers."))
