"""Files of a real shape with random weights, as models of that shape are shipped: times and memory without fetching
anything.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TINYLLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = ("Q8_0", "Q4_0", "Q4_K_M", "F16")
_SPREAD = {"Q8_0": 73.0, "Q4_0": 4.6, "Q4_K": 200.0, "Q6_K": 1350.0}
"""By type, the standard deviation of what random bits stand for at a block's scale of 1."""


def write_gguf(path: Path, kind: str, shape: dict[str, Any] = TINYLLAMA, seed: int = 0) -> None:
    """A GGUF of one of KINDS; Q4_K_M has its larger half of types where llama.cpp's quantiser puts them."""
    from gguf import GGMLQuantizationType, GGUFWriter

    rng = np.random.default_rng(seed)
    writer: Any = GGUFWriter(path, "llama")
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_rope_dimension_count(shape["hidden_size"] // shape["num_attention_heads"])
    tokens, types = _vocabulary(shape["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0 if kind != 1 else -float(place) for place, kind in enumerate(types)])
    writer.add_token_types(types)
    writer.add_bos_token_id(shape["bos_token_id"])
    writer.add_eos_token_id(shape["eos_token_id"])
    for name, size in _tensors(shape):
        if len(size) == 1:
            writer.add_tensor(name, np.ones(size, np.float32))
            continue
        own = _kind(name, kind, shape["num_hidden_layers"])
        writer.add_tensor(name, _blocks(rng, size, own), raw_dtype=GGMLQuantizationType[own])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_directory(path: Path, shape: dict[str, Any] = TINYLLAMA, seed: int = 0) -> None:
    """A Hugging Face directory with weights in bf16, its tokens those of `write_gguf`."""
    import ml_dtypes
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from app.backends.checkpoints.gguf_file import hugging_face_name

    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    tokens, _ = _vocabulary(shape["vocab_size"])
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.save(str(path / "tokenizer.json"))
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, size in _tensors(shape):
        values = np.ones(size, np.float32)
        if len(size) == 2:
            values = rng.standard_normal(size, np.float32) * np.float32(size[1] ** -0.5)
        tensors[hugging_face_name(name)] = values.astype(ml_dtypes.bfloat16)
    save_file(tensors, path / "model.safetensors")


def _tensors(shape: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of a Llama's tensors in a GGUF."""
    hidden, inner, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "token_embd.weight", (vocab, hidden)
    for layer in range(shape["num_hidden_layers"]):
        at = f"blk.{layer}."
        yield f"{at}attn_norm.weight", (hidden,)
        yield f"{at}ffn_norm.weight", (hidden,)
        for name, rows in (("attn_q", hidden), ("attn_k", kv), ("attn_v", kv), ("attn_output", hidden)):
            yield f"{at}{name}.weight", (rows, hidden)
        for name, size in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            yield f"{at}ffn_{name}.weight", size
    yield "output_norm.weight", (hidden,)
    if not shape["tie_word_embeddings"]:
        yield "output.weight", (vocab, hidden)


def _kind(name: str, kind: str, layers: int) -> str:
    """The type of a matrix in a file of this kind."""
    if kind != "Q4_K_M":
        return kind
    if name == "output.weight":
        return "Q6_K"
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer = int(name.split(".")[1])
        if layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2:
            return "Q6_K"
    return "Q4_K"


def _blocks(rng: np.random.Generator, size: tuple[int, ...], kind: str) -> NDArray[Any]:
    """A matrix of random values of about unit gain, in a type's blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    rows, columns = size
    if kind == "F16":
        return (rng.standard_normal(size, np.float32) * np.float32(columns**-0.5)).astype(np.float16)
    values, length = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = np.frombuffer(rng.bytes(rows * columns // values * length), np.uint8).reshape(rows, -1, length).copy()
    scale = np.float16(columns**-0.5 / _SPREAD[kind])
    if kind == "Q6_K":
        blocks[..., -2:] = np.array([scale]).view(np.uint8)
        return blocks.reshape(rows, -1)
    blocks[..., :2] = np.array([scale]).view(np.uint8)
    if kind == "Q4_K":  # a value is d * scale * q - dmin * min, with q around 7.5
        blocks[..., 2:4] = np.array([np.float16(7.5 * scale)]).view(np.uint8)
    return blocks.reshape(rows, -1)


def _vocabulary(size: int) -> tuple[list[str], list[int]]:
    """Tokens of the SentencePiece kind and their types: three specials, the bytes, then ever longer pieces."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = itertools.chain.from_iterable(
        map("".join, itertools.product("▁" + string.ascii_lowercase, repeat=length)) for length in itertools.count(1)
    )
    tokens += itertools.islice(pieces, size - len(tokens))
    return tokens, [2, 3, 3, *[6] * 256, *[1] * (size - 259)]
