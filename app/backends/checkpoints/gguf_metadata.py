"""A GGUF's metadata in the form of a Hugging Face directory: shape, rotary stretch, stop ids, chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.backends.checkpoints import gguf_tokenizer
from app.backends.checkpoints.config import config_of
from app.backends.checkpoints.gguf_reader import StoredTensor
from app.errors import PairError

_KNOWN = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "tensor_data_layout",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.dimension_count", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scale_linear", "expert_count", "expert_used_count", "attention.causal", "attention.sliding_window",
}  # fmt: skip
"""Keys of `llama.` that are read here, or change nothing."""
_ONE = ("logit_scale", "embedding_scale", "residual_scale", "rope.scaling.attn_factor")
"""Factors: 1, or 0 for absent, changes nothing."""

Field = Callable[..., Any]


def hugging_face_files(path: Path, fields: dict[str, Any], tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """`config.json`, `tokenizer.json`, `tokenizer_config.json`. Raises PairError for what would be computed wrongly."""
    missing = object()

    def field(name: str, default: Any = missing) -> Any:
        if name in fields:
            return fields[name]
        if default is missing:
            raise PairError(f"{path.name} does not say its {name}; convert the model to GGUF again.")
        return default

    architecture = field("general.architecture")
    if architecture != "llama":
        raise PairError(f"{path.name} holds a {architecture} model; this playground runs Llama architectures only.")
    if field("general.type", "model") != "model":
        raise PairError(f"{path.name} holds no model but an {field('general.type')}; choose the model's own file.")
    _refuse_deviations(path, fields)
    if "token_embd.weight" not in tensors:
        raise PairError(f"{path.name} has no tensor token_embd.weight; fetch the model again.")
    try:
        config = _config(field, tensors)
        tokens = [str(token) for token in field("tokenizer.ggml.tokens")]
        ids = {name: _token_id(field, f"tokenizer.ggml.{name}_token_id", len(tokens)) for name in (*_ENDS, "bos")}
        config["eos_token_id"] = sorted({ids[name] for name in _ENDS if ids[name] is not None})
        _check_apart(tokens)
        adds_bos, adds_eos = (_switch(field, f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos"))
    except (TypeError, ValueError, OverflowError) as error:
        raise PairError(f"{path.name} holds damaged metadata ({error}); fetch it again.") from None
    config_of(config, {}, path)  # a fault of it is the file's, not that of the directory made of it
    tokenizer = gguf_tokenizer.build(path, tokens, field)
    bos = ids["bos"]
    if bos is None and gguf_tokenizer.is_spm(field) and len(tokens) > 1:
        bos = 1  # llama.cpp's default for this kind
    template = field("tokenizer.chat_template", None) or _template_beside(path, tokenizer.beside)
    return {
        "config.json": config,
        "tokenizer.json": tokenizer.json,
        "tokenizer_config.json": {
            "chat_template": template,
            "bos_token": None if bos is None else tokens[bos],
            "eos_token": None if ids["eos"] is None else tokens[ids["eos"]],
            "playground": {
                "add_bos_token": (tokenizer.adds_bos if adds_bos is None else adds_bos) and bos is not None,
                "add_eos_token": bool(adds_eos) and ids["eos"] is not None,
                "notes": list(tokenizer.notes),
            },
        },
    }


_ENDS = ("eos", "eot", "eom")


def _token_id(field: Field, name: str, count: int) -> int | None:
    """An id of the vocabulary; converters write -1, or all bits set, for none. Raises ValueError."""
    value = field(name, None)
    if value is None:
        return None
    if isinstance(value, str | bool) or int(value) != value:
        raise ValueError(f"{name} is {value}")
    return int(value) if 0 <= int(value) < count else None


def _check_apart(tokens: list[str]) -> None:
    """Raise ValueError for two tokens of one name: llama.cpp ends its process over them."""
    places: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token and places.setdefault(token, place) != place:
            raise ValueError(f"its tokens {places[token]} and {place} are both {token[:40]!r}")


def _switch(field: Field, name: str) -> bool | None:
    """None: not said. Raises ValueError."""
    value = field(name, None)
    if value not in (None, False, True):
        raise ValueError(f"{name} is {value}")
    return None if value is None else bool(value)


def _config(field: Field, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    def whole(name: str, default: Any = None) -> int:
        value = field(name) if default is None else field(name, default)
        if hasattr(value, "tolist"):  # one a layer
            values = set(value.tolist())
            if len(values) != 1:
                raise ValueError(f"{name} differs from layer to layer")
            (value,) = values
        return int(value)

    hidden, heads = whole("llama.embedding_length"), whole("llama.attention.head_count")
    if heads < 1:
        raise ValueError(f"llama.attention.head_count is {heads}")
    head_size = whole("llama.attention.key_length", hidden // heads)
    for name, what in (("llama.attention.value_length", "values"), ("llama.rope.dimension_count", "turned values")):
        if whole(name, head_size) != head_size:
            raise ValueError(f"heads of {head_size} have {whole(name)} {what}")
    return {
        "model_type": "llama",
        "num_hidden_layers": whole("llama.block_count"),
        "hidden_size": hidden,
        "intermediate_size": whole("llama.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": whole("llama.attention.head_count_kv", heads),
        "head_dim": head_size,
        "vocab_size": int(tensors["token_embd.weight"].shape[0]),
        "max_position_embeddings": whole("llama.context_length"),
        "rms_norm_eps": float(field("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(field("llama.rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(field),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _rope_scaling(field: Field) -> dict[str, Any] | None:
    """As llama.cpp reads it: a factor without a type is linear, the old key counts where the new one is absent."""
    kind = str(field("llama.rope.scaling.type", "linear"))
    factor = float(field("llama.rope.scaling.factor", 0.0)) or float(field("llama.rope.scale_linear", 0.0))
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor} if factor not in (0.0, 1.0) else None
    return {"rope_type": kind, "factor": factor}


def _refuse_deviations(path: Path, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        name = key.removeprefix("llama.")
        if name == key:
            continue
        fault = None
        if name == "expert_count" and int(value) > 0:
            fault = f"is a mixture of {value} experts; choose a dense Llama"
        elif name == "expert_used_count" and int(value) > 0 and not fields.get("llama.expert_count"):
            fault = f"says {key} = {value} and no experts; fetch it again"  # llama.cpp ends its process over it
        elif name == "attention.causal" and not value:
            fault = "reads both ways; choose a model that writes text"
        elif name == "attention.sliding_window" and 0 < int(value) < int(fields.get("llama.context_length", 0)):
            fault = f"attends to a window of {value} tokens only; choose a model that attends to all"
        elif name in _ONE:
            fault = (
                None
                if float(value) in (0.0, 1.0)
                else f"says {key} = {value}, which is not computed here; choose a plain Llama"
            )
        elif name in ("hidden_act", "hidden_activation"):
            fault = None if value in ("silu", "swish") else f"has the activation {value}; choose another model"
        elif name.startswith("rope.scaling.yarn"):
            continue  # says nothing without the type, which is refused
        elif name not in _KNOWN and not isinstance(value, str):
            fault = f"says {key} = {str(value)[:60]}, which is not known here; choose a plain Llama"
        if fault:
            raise PairError(f"{path.name} {fault}.")


def _template_beside(path: Path, same_tokens: bool | None) -> str | None:
    """The chat template in the files beside a GGUF, unless they are another model's. same_tokens: whether the
    `tokenizer.json` there has this file's tokens (None: there is none)."""
    if same_tokens is False:
        return None
    written = path.parent / "chat_template.jinja"
    config = path.parent / "tokenizer_config.json"
    try:
        if written.is_file():
            return written.read_text(encoding="utf-8")
        if config.is_file():
            template = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
            if isinstance(template, list):
                template = {entry["name"]: entry["template"] for entry in template}.get("default")
            return template if isinstance(template, str) else None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None  # a damaged file beside is none
    return None
