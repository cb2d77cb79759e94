"""Tiny GGUF files made on the spot, whole or spoilt, with any metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quantize
from numpy.typing import NDArray

from tests.support.llamas import TINY, weights

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
BYTE_TOKENS = [*(chr(0x21 + i) for i in range(94)), *(chr(0xAE + i) for i in range(33)), "AB"]
BYTE_LEVEL: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": BYTE_TOKENS,
    "tokenizer.ggml.token_type": [3] * 4 + [1] * 124,
    "tokenizer.ggml.merges": ["A B"],
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.eot_token_id": 2,
}


def metadata(config: dict[str, Any]) -> dict[str, Any]:
    """What a converter writes of a Llama of this shape."""
    return {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_theta"],
        **({"llama.attention.key_length": config["head_dim"], "llama.attention.value_length": config["head_dim"]} if "head_dim" in config else {}),
    }  # fmt: skip


def gguf_tensors(config: dict[str, Any], tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The tensors under GGUF's names, q and k rows interleaved as llama.cpp wants them."""
    stored = {}
    for name, tensor in tensors.items():
        stem, kind = name.rsplit(".", 1)
        layer = ""
        if stem.startswith("model.layers."):
            _, _, number, stem = stem.split(".", 3)
            layer = f"blk.{number}."
        heads = {
            "self_attn.q_proj": config["num_attention_heads"],
            "self_attn.k_proj": config["num_key_value_heads"],
        }.get(stem)
        if heads:
            halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
            tensor = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)
        stored[f"{layer}{NAMES[stem]}.{kind}"] = tensor
    return stored


def write_gguf(
    path: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    change: dict[str, Any] | None = None,
    *,
    fields: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    extra: dict[str, NDArray[np.float32]] | None = None,
    bias: bool = False,
    shards: int = 1,
) -> dict[str, NDArray[np.float32]]:
    """A tiny GGUF, by default with byte-level tokens; returns the weights it was made from under Hugging Face's names.

    fields: metadata that is added or, where None, left out; extra: tensors under GGUF's own names. kind: of all
    matrices; a type that gguf cannot write gets random blocks. shards: files of a split model; `path` is then the
    first's.
    """
    config = {**TINY, **(change or {})}
    made = weights(config, bias=bias)
    stored = {**gguf_tensors(config, made), **(extra or {})}
    names = list(stored)
    for shard in range(shards):
        file = path if shards == 1 else path.with_name(f"{path.stem}-{shard + 1:05}-of-{shards:05}.gguf")
        writer = GGUFWriter(file, "llama")
        said = {**metadata(config), **(BYTE_LEVEL if tokenizer is None else tokenizer), **(fields or {})}
        if shard:
            said = {}
        for key, value in said.items():
            put(writer, key, value)
        if shards > 1:
            writer.add_uint16("split.no", shard)
            writer.add_uint16("split.count", shards)
        for name in names[shard::shards]:
            own = GGMLQuantizationType.F32 if stored[name].ndim == 1 else kind
            writer.add_tensor(name, as_blocks(stored[name], own), raw_dtype=own)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return made


def put(writer: GGUFWriter, key: str, value: Any) -> None:
    """One field, in the type that converters give its kind of value."""
    if value is None:
        return
    if key == "general.architecture":
        writer.kv_data[0].pop(key, None)  # the writer's own
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def as_blocks(tensor: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[Any]:
    """The tensor in a type's blocks; random ones of a type that gguf can read and not write."""
    try:
        return np.asarray(quantize(tensor, kind))
    except NotImplementedError:
        return random_blocks(tensor.shape, kind)


def random_blocks(shape: tuple[int, ...], kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """Blocks of random bits, their half-precision scales small numbers."""
    rng = np.random.default_rng(3)
    values, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)
    scales = rng.uniform(0.001, 0.01, (*blocks.shape[:2], 2)).astype(np.float16)
    at, count = {"Q6_K": (208, 1), "Q2_K": (80, 2), "Q3_K": (108, 1)}.get(kind.name, (0, 2))
    if kind.name not in ("Q4_K", "Q5_K", "Q2_K"):
        count = 1
    blocks[:, :, at : at + 2 * count] = scales[:, :, :count].view(np.uint8)
    return blocks.reshape(shape[0], -1)
