"""Tiny Llama checkpoints made on the spot, to test loading; their weights are random and their text means nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TINY: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": [3, 7],
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

LLAMA3: dict[str, Any] = {
    **TINY,
    "rope_scaling": LLAMA3_ROPE,
    "rope_theta": 500000.0,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 144,
    "eos_token_id": [100, 101],
}
"""Llama 3 in small: grouped heads, stretched rotary frequencies, two stop ids, and 16 ids its tokenizer does not
know."""


def weights(config: dict[str, Any], seed: int = 0, *, bias: bool = False) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a Llama of this shape, under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    kv = config["num_key_value_heads"] * size

    def matrix(*shape: int) -> NDArray[np.float32]:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), np.float32)

    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden) * 8}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes = {
            "self_attn.q_proj": (heads * size, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, heads * size),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for name, shape in shapes.items():
            tensors[f"{at}{name}.weight"] = matrix(*shape) * 2
            if bias and name.startswith("self_attn"):
                tensors[f"{at}{name}.bias"] = matrix(shape[0])
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = (1 + 0.1 * rng.standard_normal(hidden)).astype(np.float32)
    tensors["model.norm.weight"] = np.ones(hidden, np.float32)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(config["vocab_size"], hidden) * 4
    return tensors


def save_directory(
    directory: Path, config: dict[str, Any], tensors: dict[str, NDArray[Any]], *, shards: int = 1
) -> Path:
    """A Hugging Face model directory, its weights in one file or in several with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map.update(dict.fromkeys(part, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def save_tokenizer(directory: Path, *, size: int = 128, changed: int | None = None) -> Path:
    """A byte-level `tokenizer.json` of `size` tokens (up to 128); the one with the id `changed` is another."""
    tokens = [*(chr(0x21 + i) for i in range(94)), *(chr(0xAE + i) for i in range(33)), "AB"][:size]
    if changed is not None:
        tokens[changed] = "XYZ"
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (directory / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")  # `save` takes no odd names
    return directory


def conditioned(directory: Path, kept: NDArray[np.int64], seed: int = 1, layers: int = 1) -> Path:
    """A draft for TINY that reads its target's states, uses its embeddings and scores the kept ids."""
    config = {
        **TINY,
        "num_hidden_layers": layers,
        "playground": {"kept_ids": len(kept), "embeddings": "target", "conditioned": True},
    }
    save_directory(directory, config, {})
    tensors = conditioned_weights(seed, layers)
    del tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"][kept])
    save_file({**tensors, "kept_ids": kept}, directory / "model.safetensors")
    return directory


def conditioned_weights(seed: int = 1, layers: int = 1) -> dict[str, NDArray[np.float32]]:
    """Its tensors, those it shares and the rows it leaves out as well."""
    tensors = weights({**TINY, "num_hidden_layers": layers}, seed)
    tensors["model.embed_tokens.weight"] = weights(TINY)["model.embed_tokens.weight"]
    width = TINY["hidden_size"]
    rng = np.random.default_rng(seed)
    tensors["fusion.weight"] = (rng.standard_normal((width, 2 * width)) / 4).astype(np.float32)
    return tensors


def reference_logits(
    config: dict[str, Any],
    tensors: dict[str, NDArray[np.float32]],
    ids: list[int],
    before: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Logits [len(ids), vocab] in float64, written from the Llama paper's formulas with nothing shared with the
    engine. before [len(ids), 2 hidden]: what a draft that reads states reads beside the ids."""
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    states = reference_states(config, tensors, ids, before)
    return np.asarray(states @ tensors[f"{head}.weight"].T.astype(np.float64) + tensors.get(f"{head}.bias", 0.0))


def reference_states(
    config: dict[str, Any],
    tensors: dict[str, NDArray[np.float32]],
    ids: list[int],
    before: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """The states [len(ids), hidden] behind the last norm, that the logits are made of."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    hidden = config["hidden_size"]
    size = config.get("head_dim") or hidden // heads
    frequencies = config["rope_theta"] ** (-np.arange(0, size, 2) / size)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "linear":
        frequencies = frequencies / rope["factor"]
    if kind == "llama3":
        for i, frequency in enumerate(frequencies):
            wavelength = 2 * np.pi / frequency
            low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
            high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
            if wavelength > low:
                frequencies[i] = frequency / rope["factor"]
            elif wavelength > high:
                smooth = (rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]) / (
                    rope["high_freq_factor"] - rope["low_freq_factor"]
                )
                frequencies[i] = (1 - smooth) * frequency / rope["factor"] + smooth * frequency

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * tensors[name])

    def project(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.asarray(x @ tensors[f"{name}.weight"].T.astype(np.float64) + tensors.get(f"{name}.bias", 0.0))

    def rotate(x: NDArray[np.float64]) -> NDArray[np.float64]:  # [T, heads, size]
        angles = np.arange(len(ids))[:, None] * frequencies
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        low, high = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)

    x = tensors["model.embed_tokens.weight"][ids].astype(np.float64)
    if before is not None:
        x = x + project(before, "fusion")
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        y = norm(x, f"{at}input_layernorm.weight")
        q = rotate(project(y, f"{at}self_attn.q_proj").reshape(len(ids), heads, size))
        k = rotate(project(y, f"{at}self_attn.k_proj").reshape(len(ids), kv_heads, size))
        v = project(y, f"{at}self_attn.v_proj").reshape(len(ids), kv_heads, size)
        k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
        scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", attention, v).reshape(len(ids), heads * size)
        x = x + project(mixed, f"{at}self_attn.o_proj")
        y = norm(x, f"{at}post_attention_layernorm.weight")
        gate = project(y, f"{at}mlp.gate_proj")
        x = x + project(gate / (1 + np.exp(-gate)) * project(y, f"{at}mlp.up_proj"), f"{at}mlp.down_proj")
    return norm(x, "model.norm.weight")
