"""What a configuration says that would make another model of it than a plain Llama: each would give wrong text,
silently."""

from __future__ import annotations

import re
from typing import Any

CAUSAL = ("LlamaForCausalLM", "LLaMAForCausalLM")
_ACTIVATIONS = ("silu", "swish")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "attention_multiplier": (),
    "embedding_multiplier": (1,),
    "embedding_scale": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "scale_emb": (1,),
    "scale_depth": (1,),
    "is_causal": (True,),
    "num_local_experts": (1,),
    "num_experts": (1,),
    "n_routed_experts": (1,),
}
"""Values with which a key changes nothing; None, False, 0 and empty ones are so for every key but is_causal."""
_HARMLESS = {
    "rms_norm_eps", "attention_bias", "mlp_bias", "attention_dropout", "attn_pdrop", "rope_theta", "rope_scaling",
    "rope_parameters", "pretraining_tp", "num_attention_heads", "attn_implementation", "_attn_implementation",
    "_attn_implementation_internal", "_attn_implementation_autoset", "attention_probs_dropout_prob", "fused_rms_norm",
    "fused_swiglu", "fused_rotary", "flash_attn", "use_flash_attn", "use_flash_attention", "rope_traced",
    "max_window_layers", "unsloth_fixed", "neftune_noise_alpha", "router_aux_loss_coef", "output_router_logits",
    "rms_norm", "norm_eps", "num_experts_per_tok", "use_sliding_window", "quantization_config", "sliding_window",
    "use_unpadded_attention",
}  # fmt: skip
_WORDS = {
    "position_embedding_type": ("rope", "rotary"),
    "positional_encoding": ("rope", "rotary"),
    "norm_type": ("rms", "rmsnorm", "rms_norm"),
    "layer_norm_type": ("rms", "rmsnorm", "rms_norm"),
    "normalization": ("rms", "rmsnorm", "rms_norm"),
    "normalization_type": ("rms", "rmsnorm", "rms_norm"),
    "attention_type": ("full", "full_attention", "causal", "global", "gqa", "mha", "mqa"),
    "mlp_type": ("swiglu", "silu", "gated", "glu"),
}
"""Keys that say in a word how something is computed, and the words for how it is here."""
_SUSPICIOUS = re.compile(
    r"bidirectional|prefix_lm|dim_model_base|nope|scal|multiplier|soft_?cap|logits?_cap|lora_rank|kv_shar|cla_share"
    r"|temperature_tuning|expert|moe|window|rotary|rope|norm|alibi|parallel|interleav|attn|attention|quant|clip|mup"
    r"|residual|layer_types|activation"
)
_QUANTISED = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
    "aqlm": "AQLM",
    "hqq": "HQQ",
    "eetq": "EETQ",
    "exl2": "EXL2",
    "mxfp4": "MXFP4",
}


def deviation(raw: dict[str, Any], n_positions: int) -> str | None:
    """What in a `config.json` is not a plain Llama's, and what would help; None where it is one. n_positions: the
    longest context it gives."""
    architectures = raw.get("architectures") or []
    if isinstance(architectures, list) and architectures and not set(architectures) & set(CAUSAL):
        return _other(str(architectures[0]))
    if quantised := raw.get("quantization_config") or raw.get("compression_config"):
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        return (
            f"holds weights quantised by {_QUANTISED.get(str(method).lower(), method or 'a method it does not name')}; "
            "choose the original weights, or a GGUF of the model"
        )
    activation = raw.get("hidden_act", raw.get("hidden_activation", "silu"))
    if activation not in (*_ACTIVATIONS, None):
        return f"has the activation {activation}, a plain Llama silu; choose another model"
    experts = next((key for key in ("num_local_experts", "num_experts", "n_routed_experts") if raw.get(key)), None)
    if experts is not None and raw[experts] != 1:
        return f"is a mixture of {raw[experts]} experts; choose a dense Llama"
    window = raw.get("sliding_window")
    if window and raw.get("use_sliding_window", True) and int(window) < n_positions:
        return (
            f"attends to a window of {window} tokens only; choose a model that attends to all, or set "
            "sliding_window to null"
        )
    for key, words in _WORDS.items():
        if raw.get(key) and str(raw[key]).lower() not in words:
            return f"says {key} = {str(raw[key])[:60]}, which is not computed here; choose a plain Llama"
    for key, value in raw.items():
        if key in _HARMLESS or key in _WORDS or not (key in _NEUTRAL or _SUSPICIOUS.search(key)):
            continue
        if _changes(key, value):
            return f"says {key} = {str(value)[:60]}, which is not computed here; choose a plain Llama"
    return None


def _changes(key: str, value: Any) -> bool:
    if key == "layer_types":
        return isinstance(value, list) and any(kind != "full_attention" for kind in value)
    if key == "is_causal":
        return value is False
    if not value or value in _NEUTRAL.get(key, ()):
        return False
    # a switch or a number says something of the arithmetic; a text (a version, a name) does not
    return isinstance(value, bool | int | float | list | dict)


def _other(architecture: str) -> str:
    if "eagle" in architecture.lower() or "medusa" in architecture.lower():
        return (
            f"is a {architecture}: a head that needs its target's hidden states; choose a draft that is "
            "a model of its own"
        )
    if architecture == "LlamaModel":
        return "is a LlamaModel, which has no output layer; choose a LlamaForCausalLM"
    return f"is a {architecture}; choose a LlamaForCausalLM"
