"""A tiny Llama that chats: what a distillation needs of its target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from app.distill.openers import OPENERS, PASSAGES

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_llama(folder: Path) -> Path:
    """A Llama of three layers with a tokenizer and a chat template; random weights, so it rambles, but it ends."""
    text = [opener for openers in [*OPENERS.values(), *PASSAGES.values()] for opener in openers]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    width, inner, vocab, layers = 64, 128, tokenizer.get_vocab_size(), 3
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Any:
        return (rng.normal(size=(rows, columns)) / columns**0.5).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": rng.normal(size=(vocab, width)).astype(np.float32) * 0.4,
        "model.norm.weight": np.ones(width, np.float32),
    }
    tensors["model.embed_tokens.weight"][2] *= 2  # the stop id is often likely, so that instructions end
    for i in range(layers):
        at = f"model.layers.{i}."
        tensors |= {
            at + "self_attn.q_proj.weight": matrix(width, width),
            at + "self_attn.k_proj.weight": matrix(width // 2, width),
            at + "self_attn.v_proj.weight": matrix(width // 2, width),
            at + "self_attn.o_proj.weight": matrix(width, width),
            at + "mlp.gate_proj.weight": matrix(inner, width),
            at + "mlp.up_proj.weight": matrix(inner, width),
            at + "mlp.down_proj.weight": matrix(width, inner),
            at + "input_layernorm.weight": np.ones(width, np.float32),
            at + "post_attention_layernorm.weight": np.ones(width, np.float32),
        }
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    return folder
