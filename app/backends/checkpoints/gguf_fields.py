"""What kind of value each field of a GGUF's metadata is: a file that says another is damaged, or not what it seems.

Whoever reads a field may then rely on its kind; what it says is looked at where it is read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from app.wording import shown

_LLAMA = {
    "block_count": "a whole number",
    "context_length": "a whole number",
    "embedding_length": "a whole number",
    "feed_forward_length": "a whole number or one a layer",
    "attention.head_count": "a whole number or one a layer",
    "attention.head_count_kv": "a whole number or one a layer",
    "attention.key_length": "a whole number",
    "attention.value_length": "a whole number",
    "attention.sliding_window": "a whole number",
    "attention.causal": "a switch",
    "attention.layer_norm_rms_epsilon": "a number",
    "rope.dimension_count": "a whole number",
    "rope.freq_base": "a number",
    "rope.scaling.type": "a text",
    "rope.scaling.factor": "a number",
    "rope.scaling.attn_factor": "a number",
    "rope.scale_linear": "a number",
    "logit_scale": "a number",
    "embedding_scale": "a number",
    "residual_scale": "a number",
    "expert_count": "a whole number",
    "expert_used_count": "a whole number",
    "hidden_act": "a text",
    "hidden_activation": "a text",
}
_TOKENIZER = {
    "model": "a text",
    "pre": "a text",
    "tokens": "texts",
    "token_type": "whole numbers",
    "scores": "numbers",
    "merges": "texts",
    "add_bos_token": "a switch",
    "add_eos_token": "a switch",
    "add_space_prefix": "a switch",
    **{f"{name}_token_id": "a whole number" for name in ("bos", "eos", "eot", "eom")},
}
KINDS = {
    "general.architecture": "a text",
    "general.type": "a text",
    "general.alignment": "a whole number",
    "split.no": "a whole number",
    "split.count": "a whole number",
    "tokenizer.chat_template": "a text",
    **{f"llama.{name}": kind for name, kind in _LLAMA.items()},
    **{f"tokenizer.ggml.{name}": kind for name, kind in _TOKENIZER.items()},
}
"""By name, of the fields that are read here."""


def check_kinds(fields: dict[str, Any]) -> None:
    """Raise ValueError, naming it, for a field that is of another kind than its name says."""
    for name, kind in KINDS.items():
        if name in fields and not _is(fields[name], kind):
            raise ValueError(f"{name} is {shown(str(fields[name])[:60])}, not {kind}")


def _is(value: Any, kind: str) -> bool:
    if kind == "texts":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if isinstance(value, np.ndarray):
        whole = value.dtype.kind in "iu" and value.size > 0
        return (kind == "numbers" and value.dtype.kind in "iuf") or (kind.endswith(("numbers", "a layer")) and whole)
    if kind == "a text":
        return isinstance(value, str)
    if kind == "a switch":
        return isinstance(value, bool | int) and value in (0, 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return kind == "a number" or (kind.startswith("a whole number") and math.isfinite(value) and value == int(value))
