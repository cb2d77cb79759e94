"""The conformance table, what is refused: directories that would be computed wrongly, and what is no model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.backends.checkpoints.model_files import ModelFiles
from app.backends.openvino.model import OpenVinoModel
from app.errors import PairError
from tests.support.conformance import IDS, POINTER, agree, directory, logits
from tests.support.llamas import LLAMA3_ROPE, TINY, reference_logits, save_directory, save_tokenizer, weights

pytestmark = pytest.mark.slow

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hidden_act": "relu"}, "activation relu, a plain Llama silu"),
    ({"hidden_act": "gelu"}, "activation gelu"),
    ({"sliding_window": 64}, "window of 64 tokens only"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised by GPTQ; choose the original weights"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantised by AWQ"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised by bitsandbytes"),
    ({"quantization_config": {"quant_method": "new"}}, "quantised by new"),
    ({"num_local_experts": 8}, "mixture of 8 experts; choose a dense Llama"),
    ({"model_type": "mixtral"}, "a mixtral model"),
    ({"architectures": ["LlamaForCausalLMEagle3"]}, "needs its target's hidden states"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "is a LlamaForSequenceClassification"),
    ({"architectures": ["LlamaModel"]}, "has no output layer"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "uses dynamic rope scaling"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "uses yarn rope scaling"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "uses longrope rope scaling"),
    ({"rope_scaling": {"type": "linear"}}, "does not give 'factor'"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
    ({"rope_scaling": {"factor": 2.0}}, "stretched by 2.0 in a way it does not name"),
    ({"rope_theta": -1.0}, "rope_theta is -1"),
    ({"rope_theta": 0}, "rope_theta is 0"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}}, "rope_theta is 0"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    ({"attention_bias": True}, "attention_bias = true and holds no such biases"),
    ({"position_embedding_type": "alibi"}, "position_embedding_type = alibi"),
    ({"norm_type": "layernorm"}, "norm_type = layernorm"),
    ({"nope_layer_interval": 4}, "nope_layer_interval = 4"),
    ({"bidirectional": True}, "bidirectional = True"),
    ({"dim_model_base": 256}, "dim_model_base = 256"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "a rope of its own"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    ({"attention_multiplier": 0.0078}, "attention_multiplier = 0.0078"),
    ({"logits_scaling": 8.0}, "logits_scaling = 8.0"),
    ({"embedding_multiplier": 12.0}, "embedding_multiplier = 12.0"),
    ({"scale_depth": 1.4}, "scale_depth = 1.4"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
    ({"use_qk_norm": True}, "use_qk_norm = True"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ({"is_causal": False}, "is_causal = False"),
    ({"num_hidden_layers": 1}, "and the configuration says 1 layers"),
    ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2\."),
    ({"vocab_size": 129}, r"shape \[128, 64\] where the configuration says \[129, 64\]"),
    ({"num_key_value_heads": 3}, "do not divide"),
    ({"hidden_size": "64x"}, "cannot be read"),
    ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ({"eos_token_id": 2.5}, "eos_token_id is 2.5"),
    ({"eos_token_id": [3, 2.5]}, r"eos_token_id is \[3, 2.5\]"),
    ({"eos_token_id": "2"}, "eos_token_id is '2'"),
    ({"eos_token_id": True}, "eos_token_id is True"),
    ({"eos_token_id": float("nan")}, "eos_token_id is nan"),
    ({"bos_token_id": 1.5}, "bos_token_id is 1.5"),
    ({"pad_token_id": "none"}, "pad_token_id is 'none'"),
    ({"attention_bias": False, "with": "bias"}, "attention_bias = false and holds biases"),
    ({"with": "bias"}, "does not say attention_bias = true and holds biases"),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
        "rope_scaling is linear and rope_parameters default",
    ),
    (
        {
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "linear", "factor": 4.0},
        },
        "give another factor",
    ),
    ({"rope_scaling": {**LLAMA3_ROPE, "original_max_position_embeddings": 0}}, "original_max_position_embeddings is 0"),
    ({"logits_soft_cap": 30.0}, "logits_soft_cap = 30.0"),
    ({"kv_lora_rank": 16}, "kv_lora_rank = 16"),
    ({"hidden_size": float("inf")}, "cannot be read"),
    ({"sliding_window": float("inf")}, "cannot be read"),
]


@pytest.mark.parametrize(("change", "fault"), REFUSED)
def test_what_would_be_computed_wrongly_is_refused_before_it_is_read(
    tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    biased = bool(change.get("with"))
    config = {**TINY, **{key: value for key, value in change.items() if key != "with"}}
    save_directory(tmp_path / "tiny", config, weights(TINY, bias=biased))
    with pytest.raises(PairError, match=fault) as caught:
        ModelFiles(tmp_path / "tiny", tmp_path)
    assert str(caught.value).endswith(".")


UNKNOWN: list[tuple[str, tuple[int, ...], str]] = [
    ("model.layers.0.self_attn.q_proj.qweight", (8, 64), "quantised weights"),
    ("model.layers.0.self_attn.q_norm.weight", (16,), "q_norm.weight, which a plain Llama has not"),
    ("model.layers.0.block_sparse_moe.gate.weight", (8, 64), "mixture of experts"),
    ("fc.weight", (64, 128), "an EAGLE head"),
    ("model.layers.0.self_attn.q_proj.lora_A.weight", (8, 64), "LoRA adapter"),
    ("lm_head.bias", (128,), "lm_head.bias, which a plain Llama has not"),
]


@pytest.mark.parametrize(("name", "shape", "fault"), UNKNOWN)
def test_tensors_that_a_llama_has_not_are_named(tmp_path: Path, name: str, shape: tuple[int, ...], fault: str) -> None:
    save_directory(tmp_path / "tiny", TINY, {**weights(TINY), name: np.zeros(shape, np.float32)})
    with pytest.raises(PairError, match=fault):
        ModelFiles(tmp_path / "tiny", tmp_path)


def bare(*names: str) -> Callable[[Path], None]:
    """Only these files, nothing of a model in them."""

    def spoil(path: Path) -> None:
        for file in path.iterdir():
            file.unlink()
        for name in names:
            (path / name).write_text("{}")

    return spoil


def index(text: str) -> Callable[[Path], None]:
    """An index in place of the one file of weights, where it would not count."""

    def spoil(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / "model.safetensors.index.json").write_text(text)

    return spoil


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else under a file's name."""

    def spoil(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        make(path / name)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "as pytorch_model.bin only"),
        (lambda d: (d / "model.safetensors").write_text(POINTER), "Git LFS pointer"),
        (lambda d: (d / "config.json").write_text(POINTER), "Git LFS pointer"),
        (bare("model.Q4_K_M.gguf"), "holds no config.json but model.Q4_K_M.gguf; name that file"),
        (bare("adapter_config.json", "adapter_model.safetensors"), "LoRA adapter; merge it"),
        (bare("params.json", "consolidated.00.pth"), "Meta's own form"),
        (bare("README.md"), "There is no config.json"),
        (lambda d: (d / "config.json").write_text("[1]"), "not a JSON object"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), "not valid JSON"),
        (index('{"weight_map": 3}'), "no weight_map"),
        (index('{"weight_map": {"a": "../x"}}'), "is missing"),
        (lambda d: (d / "chat_template.jinja").write_bytes(b"\xff"), "is no text in UTF-8"),
        (lambda d: (d / "chat_template.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda d: (d / "tokenizer_config.json").write_text('{"chat_template": "\\ud800"}'), "half a character"),
        (in_place_of("model.safetensors", os.mkfifo), "model.safetensors is neither a file nor a folder"),
        (in_place_of("config.json", os.mkfifo), "config.json is neither a file nor a folder"),
        (in_place_of("tokenizer.json", os.mkfifo), "tokenizer.json is neither a file nor a folder"),
        (in_place_of("config.json", Path.mkdir), "config.json is a folder where a file of the model should be"),
        (in_place_of("model.safetensors", lambda f: f.symlink_to(f)), "model.safetensors is missing"),
        (in_place_of("model.safetensors", Path.touch), "model.safetensors is damaged"),
        (in_place_of("config.json", Path.touch), "not valid JSON"),
    ],
)
def test_what_is_no_model_says_what_would_help(tmp_path: Path, spoil: Callable[[Path], None], fault: str) -> None:
    directory(tmp_path / "tiny", {})
    save_tokenizer(tmp_path / "tiny")
    spoil(tmp_path / "tiny")
    with pytest.raises(PairError, match=fault) as caught:
        ModelFiles(tmp_path / "tiny", tmp_path).tokenizer().check()
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (os.mkfifo, "is neither a file nor a folder"),
        (lambda path: path.symlink_to(path), "There is no model at"),
        (lambda path: path.symlink_to("/dev/zero"), "is neither a file nor a folder"),
        (Path.mkdir, "There is no config.json"),
        (Path.touch, "tiny.gguf is empty"),
        (lambda path: path.write_bytes(b"\x89PNG" + bytes(999)), "does not begin with GGUF"),
    ],
)
def test_a_path_that_is_no_model_ends_at_once(tmp_path: Path, make: Callable[[Path], object], fault: str) -> None:
    make(tmp_path / "tiny.gguf")
    with pytest.raises(PairError, match=fault) as caught:
        ModelFiles(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert str(caught.value).endswith(".")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    tensors = weights(TINY)
    save_directory(tmp_path / "tiny", TINY, tensors, shards=3)
    others = {"model.norm.weight": tensors["model.norm.weight"] * 2}
    spare = tmp_path / "tiny" / "model-00009-of-00009.safetensors"
    save_file(others, spare)
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(TINY, tensors, IDS))  # no file of the index
    index = tmp_path / "tiny" / "model.safetensors.index.json"
    mapped = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**mapped, "model.norm.weight": spare.name}}))
    with pytest.raises(PairError, match=r"model\.norm\.weight lies in model-0000\d-of-00003\.safetensors and in"):
        ModelFiles(tmp_path / "tiny", tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens", "model.layers.1.mlp.up_proj", "model.layers.0.input_layernorm", "lm_head"]
)
@pytest.mark.parametrize("dtype", ["int8", "f16", "f32"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float, name: str, dtype: str) -> None:
    tensors = weights(TINY)
    tensors[f"{name}.weight"].reshape(-1)[5] = value
    save_directory(tmp_path / "tiny", TINY, tensors)
    files = ModelFiles(tmp_path / "tiny", tmp_path)
    with pytest.raises(PairError, match=re.escape(f"{name}.weight holds values that are no numbers")):
        OpenVinoModel(files.config, files.weights, name="tiny", dtype=dtype)


@pytest.mark.parametrize(("dtype", "value"), [("f16", 1e5), ("int8", 1e7)])
def test_weights_that_a_precision_cannot_hold_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    tensors = weights(TINY)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_directory(tmp_path / "tiny", TINY, tensors)
    files = ModelFiles(tmp_path / "tiny", tmp_path)
    with pytest.raises(PairError, match=r"holds values that .* cannot; choose --dtype bf16\."):
        OpenVinoModel(files.config, files.weights, name="tiny", dtype=dtype)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("generation_config.json", {"eos_token_id": 2.5}, "eos_token_id is 2.5"),
        ("generation_config.json", {"eos_token_id": [2, None, "3"]}, "eos_token_id is"),
        ("tokenizer_config.json", {"eos_token": 2.5}, r"The eos_token in .* is 2\.5, which is no text"),
        ("tokenizer_config.json", {"bos_token": {"content": 1}}, "The bos_token in .* is 1, which is no text"),
        ("special_tokens_map.json", {"eos_token": ["a"]}, "which is no text"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"2.5": {"content": "<a>"}}}, "gives a token the id '2.5'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"-1": {"content": "<a>"}}}, "gives a token the id '-1'"),
    ],
)
def test_special_tokens_that_are_none_are_named(tmp_path: Path, name: str, content: dict[str, Any], fault: str) -> None:
    directory(tmp_path / "tiny", {})
    save_tokenizer(tmp_path / "tiny")
    (tmp_path / "tiny" / name).write_text(json.dumps(content))
    with pytest.raises(PairError, match=fault):
        ModelFiles(tmp_path / "tiny", tmp_path).tokenizer()
