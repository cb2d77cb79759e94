"""Names, shapes and types of a checkpoint's tensors against its configuration, before any of them is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.backends.checkpoints.config import LlamaConfig
from app.errors import PairError

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LAYER_WEIGHTS = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{name}.weight" for name in _PROJECTIONS[:4]),
    *(f"mlp.{name}.weight" for name in _PROJECTIONS[4:]),
)
_LAYER_BIASES = tuple(name.replace(".weight", ".bias") for name in _LAYER_WEIGHTS if "proj" in name)
_IGNORED = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Buffers that old checkpoints hold and that follow from the configuration."""
_KINDS = (
    (re.compile(r"qweight|qzeros|g_idx|absmax|weight_scale|weight_packed|quant_state|\.SCB"), "quantised weights; choose the original weights, or a GGUF of the model"),
    (re.compile(r"experts|block_sparse_moe|ffn_gate_inp|_exps\."), "experts, so it is a mixture of experts; choose a dense Llama"),
    (re.compile(r"(^|\.)fc\.weight|midlayer|d2t|t2d"), "an EAGLE head, which needs its target's hidden states; choose a draft that is a model of its own"),
    (re.compile(r"lora_|modules_to_save"), "a LoRA adapter; merge it into its model first, and choose that"),
    (re.compile(r"vision|visual|projector|mm\."), "more than text; choose a model of text alone"),
    (re.compile(r"^score\."), "a classifier's head; choose a model that writes text"),
)  # fmt: skip


def expected_shape(config: LlamaConfig, name: str) -> tuple[int, ...]:
    """The shape the configuration gives the tensor of this name."""
    heads, kv_heads = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens": (config.vocab_size, hidden),
        "lm_head": (config.kept_ids or config.vocab_size, hidden),
        "q_proj": (heads, hidden),
        "k_proj": (kv_heads, hidden),
        "v_proj": (kv_heads, hidden),
        "o_proj": (hidden, heads),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "fusion": (hidden, 2 * hidden),
        "rope_factors": (config.head_size // 2,),
    }
    part, kind = name.split(".")[-2:]
    shape = shapes.get(part, (hidden,))
    return shape[:1] if kind == "bias" else shape


def check_tensors(
    config: LlamaConfig,
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    types: tuple[str, ...] | None,
    where: str,
    *,
    own: bool = False,
) -> None:
    """Raise PairError unless these are the tensors of a Llama of that shape.

    tensors: name -> (shape, type). types: those that are read here (None: they were looked at before). own: made by this
    project, so it may be trimmed, or packed in 8 bits. Embeddings may be absent: a draft can use its target's.
    """
    wrong_names = [name for name in tensors if not _is_expected(config, name) and not _IGNORED.fullmatch(name)]
    if wrong_names and not own:
        raise PairError(f"{where} holds {_what(sorted(wrong_names), config)}.")
    for name, (shape, kind) in tensors.items():
        if not _is_expected(config, name):
            continue
        expected = expected_shape(config, name)
        if shape != expected:
            raise PairError(
                f"{where}: {name} has the shape {list(shape)} where the configuration says {list(expected)}; "
                "fetch the model again."
            )
        if types is not None and not own and kind not in types:
            raise PairError(
                f"{where} stores {name} as {kind}, which is not supported; choose weights in one of "
                f"{', '.join(types)}, or a GGUF."
            )
    needed = ["model.norm.weight"]
    needed += [f"model.layers.{layer}.{name}" for layer in range(config.num_layers) for name in _LAYER_WEIGHTS]
    missing = next((name for name in needed if name not in tensors), None)
    if missing is not None:
        raise PairError(f"{where} has no tensor {missing}; fetch the model again.")
    if "lm_head.weight" not in tensors and not config.tied:
        raise PairError(
            f"{where} has no output layer (lm_head.weight) and does not say that its embeddings are one; if they are, set "
            "tie_word_embeddings to true in its config.json, else fetch the model again."
        )


def _is_expected(config: LlamaConfig, name: str) -> bool:
    if name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "rope_factors.weight"):
        return True
    if match := _LAYER.fullmatch(name):
        return int(match[1]) < config.num_layers and match[2] in (*_LAYER_WEIGHTS, *_LAYER_BIASES)
    return False


def _what(names: list[str], config: LlamaConfig) -> str:
    """What tensors that a plain Llama has not make of it, and what would help."""
    for pattern, sentence in _KINDS:
        if name := next((name for name in names if pattern.search(name)), None):
            return f"{name}: {sentence}"
    name = names[0]
    match = _LAYER.fullmatch(name)
    if match and int(match[1]) >= config.num_layers:
        return f"{name}, and the configuration says {config.num_layers} layers; fetch the model again"
    return f"{name}, which a plain Llama has not; choose a LlamaForCausalLM"
