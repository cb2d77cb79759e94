"""GGUF files: their weights as a checkpoint, and their metadata as the files of a Hugging Face directory.

Parsing the metadata of a vocabulary takes seconds, so `sidecar` writes it once as `config.json`, `tokenizer.json`
and `tokenizer_config.json`; whoever needs a configuration or a tokenizer reads only that one form.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from app.backends.checkpoints.cache import filled, fingerprint
from app.backends.checkpoints.checkpoint import LlamaConfig, Weights, checked_shape
from app.errors import PairError

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GgufCheckpoint:
    """A Llama in a GGUF file; q and k rows are put back from GGUF's interleaved rotary order."""

    def __init__(self, path: Path, config: LlamaConfig) -> None:
        self._path, self.config = path, config

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in _reader(self._path).tensors}

    def __contains__(self, name: str) -> bool:
        return _gguf_name(name) in self._tensors

    def tensor(self, name: str) -> Weights:
        from gguf import dequantize

        tensor = self._tensors.get(_gguf_name(name))
        if tensor is None:
            raise PairError(f"{self._path.name} has no tensor {_gguf_name(name)}; fetch the model again.")
        if tensor.tensor_type.name not in TYPES:
            raise PairError(
                f"{self._path.name} stores {tensor.name} as {tensor.tensor_type.name}, which is not supported; "
                f"choose a file in one of {', '.join(TYPES)}."
            )
        values: Weights = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        values = checked_shape(self.config, name, values)
        heads = {"q_proj": self.config.num_heads, "k_proj": self.config.num_kv_heads}.get(name.split(".")[-2])
        if heads is None:
            return values
        pairs = values.reshape(heads, -1, 2, *values.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def sidecar(path: Path, cache_dir: Path) -> Path:
    """The directory under `cache_dir` that holds the metadata of the GGUF at `path`, written when it is not there.

    Raises PairError for a file that is damaged, of another architecture, or has a tokenizer we cannot build.
    """
    key = fingerprint([path], Path(__file__).read_text(encoding="utf-8"))

    def write(directory: Path) -> None:
        reader = _reader(path)
        for name, content in _hugging_face_files(path, reader).items():
            text = content if isinstance(content, str) else json.dumps(content)
            (directory / name).write_text(text, encoding="utf-8")

    return filled(cache_dir / f"gguf-{key}", write)


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # the reader trusts the file: a damaged one surfaces as almost any exception
        raise PairError(f"{path} is damaged or no GGUF file ({type(error).__name__}); fetch it again.") from error


def _hugging_face_files(path: Path, reader: Any) -> dict[str, Any]:
    missing = object()

    def field(name: str, default: Any = missing) -> Any:
        found = reader.fields.get(name)
        if found is None and default is missing:
            raise PairError(f"{path.name} does not say its {name}; convert the model to GGUF again.")
        return default if found is None else found.contents()

    if field("general.architecture") != "llama":
        raise PairError(
            f"{path.name} holds a {field('general.architecture')} model; this playground runs Llama architectures only."
        )
    shapes = {tensor.name: tensor.shape for tensor in reader.tensors}
    hidden, heads = int(field("llama.embedding_length")), int(field("llama.attention.head_count"))
    stops = [field(f"tokenizer.ggml.{name}_token_id", None) for name in ("eos", "eot", "eom")]
    config = {
        "model_type": "llama",
        "num_hidden_layers": int(field("llama.block_count")),
        "hidden_size": hidden,
        "intermediate_size": int(field("llama.feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(field("llama.attention.head_count_kv", heads)),
        "head_dim": int(field("llama.attention.key_length", hidden // heads)),
        "vocab_size": int(shapes["token_embd.weight"][1]),
        "max_position_embeddings": int(field("llama.context_length")),
        "rms_norm_eps": float(field("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(field("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in shapes,
        "eos_token_id": sorted({int(stop) for stop in stops if stop is not None}),
    }
    tokens = field("tokenizer.ggml.tokens")
    bos = field("tokenizer.ggml.bos_token_id", None)
    tokenizer_config = {
        "chat_template": field("tokenizer.chat_template", None),
        "add_bos_token": bool(field("tokenizer.ggml.add_bos_token", False)),
        "bos_token": None if bos is None else tokens[int(bos)],
        "eos_token": tokens[int(stops[0])] if stops[0] is not None else None,
    }
    return {
        "config.json": config,
        "tokenizer.json": _tokenizer_json(path, tokens, field),
        "tokenizer_config.json": tokenizer_config,
    }


def _tokenizer_json(path: Path, tokens: list[str], field: Any) -> str:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    beside = path.parent / "tokenizer.json"
    if field("tokenizer.ggml.model") != "gpt2":
        if beside.exists():
            return beside.read_text(encoding="utf-8")
        raise PairError(
            f"{path.name} has a {field('tokenizer.ggml.model')} tokenizer, which a GGUF does not hold whole; "
            "put the model's tokenizer.json beside it."
        )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    kind = field("tokenizer.ggml.pre", "default")
    if kind == "smollm":
        splitter: Any = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif kind in ("gpt-2", "default"):
        splitter = byte_level
    elif kind in ("llama-bpe", "llama3"):
        words = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        )
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"), whole])
    elif beside.exists():
        return beside.read_text(encoding="utf-8")
    else:
        raise PairError(
            f"{path.name} splits text the {kind} way, which is not known here; put its tokenizer.json beside it."
        )
    merges = [tuple(merge.split(" ", 1)) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        model = models.BPE(vocabulary, merges, ignore_merges=kind in ("llama-bpe", "llama3"))
    except Exception as error:  # the library raises bare Exception
        raise PairError(f"{path.name} holds a damaged tokenizer ({error}); fetch it again.") from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type", [])
    control = [AddedToken(tokens[i], special=True, normalized=False) for i, k in enumerate(kinds) if k == _CONTROL]
    user = [AddedToken(tokens[i], special=False, normalized=False) for i, k in enumerate(kinds) if k == _USER_DEFINED]
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(user)
    return str(tokenizer.to_str())


def _gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    stem, kind = name.rsplit(".", 1)
    if stem == "rope_factors":
        return "rope_freqs.weight"
    if stem.startswith("model.layers."):
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{_NAMES[part]}.{kind}"
    return f"{_NAMES[stem]}.{kind}"
