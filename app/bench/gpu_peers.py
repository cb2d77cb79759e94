"""transformers over the very weights of a network of ours: no copy of them, the same text, its own loops."""

from __future__ import annotations

import time
from typing import Any

import torch

from app.backends.checkpoints.config import LlamaConfig
from app.backends.torch.network import Network


def transformers_model(of: Network, shape: LlamaConfig) -> Any:
    """A LlamaForCausalLM whose parameters are views of the network's."""
    import transformers

    transformers.logging.set_verbosity_error()
    (stage,) = of.stages
    options = transformers.LlamaConfig(
        num_hidden_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.n_positions,
        rms_norm_eps=shape.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device("meta"):
        theirs = transformers.LlamaForCausalLM(options).to(of.dtype).eval()
    rotary = type(theirs.model.rotary_emb)
    theirs.model.rotary_emb = rotary(options).to(stage.device)
    queries, keys = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size

    def take(module: Any, values: Any) -> None:
        module.weight = torch.nn.Parameter(values, requires_grad=False)

    take(theirs.model.embed_tokens, stage.embeddings)
    take(theirs.model.norm, stage.norm)
    take(theirs.lm_head, stage.head)
    for module, layer in zip(theirs.model.layers, stage.layers, strict=True):
        take(module.input_layernorm, layer.norm)
        take(module.post_attention_layernorm, layer.mlp_norm)
        q, k, v = layer.qkv.split([queries, keys, keys])
        take(module.self_attn.q_proj, q)
        take(module.self_attn.k_proj, k)
        take(module.self_attn.v_proj, v)
        take(module.self_attn.o_proj, layer.out)
        gate, up = layer.gate_up.chunk(2)
        take(module.mlp.gate_proj, gate)
        take(module.mlp.up_proj, up)
        take(module.mlp.down_proj, layer.down)
    return theirs


def generate(
    model: Any, prompt: list[int], max_tokens: int, assistant: Any = None, num_draft: int | None = None
) -> tuple[list[int], float]:
    """Greedy tokens after the prompt, and seconds a token behind the first. num_draft: a constant draft length; None:
    the library's own schedule."""
    device = model.device
    if assistant is not None and num_draft is not None:
        settings = assistant.generation_config
        settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = num_draft, "constant"
        settings.assistant_confidence_threshold = 0.0
    options = {} if assistant is None else {"assistant_model": assistant}
    ids = torch.tensor([prompt], device=device)
    seconds = []
    out: Any = None
    for count in (1, max_tokens):  # the first token's time is the prompt's
        torch.accelerator.synchronize() if device.type != "cpu" else None
        begin = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                use_cache=True,
                **options,
            )
        torch.accelerator.synchronize() if device.type != "cpu" else None
        seconds.append(time.perf_counter() - begin)
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens, (seconds[1] - seconds[0]) / max(1, len(tokens) - 1)
