"""The conformance table: every variant of a Llama's files gives the logits of the formulas, or is refused by name.

Nothing of the reference is shared with the engine: `tests.support.llamas.reference_logits` is the paper in float64, and
the same directories go through transformers where it is installed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file

from app.backends.checkpoints.config import read_config
from app.backends.checkpoints.gguf_file import GgufCheckpoint
from app.backends.checkpoints.model_files import ModelFiles
from app.backends.openvino import llama_graph
from app.backends.openvino.model import OpenVinoModel
from app.errors import PairError
from tests.support.ggufs import BYTE_LEVEL, as_blocks, gguf_tensors, write_gguf
from tests.support.llamas import LLAMA3_ROPE, TINY, reference_logits, save_directory, weights

pytestmark = pytest.mark.slow

IDS = [5, 17, 3, 99, 64, 2, 2, 120, 31, 8] * 8
LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}
Tensors = dict[str, NDArray[Any]]


def logits(path: Path, cache: Path) -> NDArray[np.float32]:
    """What the default engine makes of the model at `path`, in float32."""
    files = ModelFiles(path, cache)
    model = OpenVinoModel(files.config, files.weights, name="tiny", dtype="f32")
    return model.new_sequence().forward(IDS, len(IDS))


def agree(ours: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(ours, expected, atol=1e-3 * np.abs(expected).max())


# --- directories ---

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "one key head": {"num_key_value_heads": 1},
    "as many key heads": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 32},
    "linear": LINEAR,
    "linear, new form": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "llama3": {"rope_scaling": LLAMA3_ROPE},
    "llama3, new form": {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 10000.0}},
    "default, said": {"rope_scaling": {"rope_type": "default"}},
    "another base": {"rope_theta": 500000.0},
    "swish": {"hidden_act": "swish"},
    "biases": {"attention_bias": True},
    "window as long as the context": {"sliding_window": 4096},
    "harmless": {"pretraining_tp": 2, "attention_dropout": 0.1, "use_cache": False, "torch_dtype": "bfloat16"},
}


def directory(path: Path, change: dict[str, Any]) -> tuple[dict[str, Any], Tensors]:
    config = {**TINY, **change}
    tensors = weights(config, bias=bool(change.get("attention_bias")))
    save_directory(path, config, tensors)
    return config, tensors


@pytest.mark.parametrize("name", CONFIGS)
def test_a_directory_gives_the_formulas(tmp_path: Path, name: str) -> None:
    config, tensors = directory(tmp_path / "tiny", CONFIGS[name])
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(config, tensors, IDS))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_directory_gives_what_transformers_gives(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    directory(tmp_path / "tiny", CONFIGS[name])
    network = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    with torch.inference_mode():
        theirs = network(torch.tensor([IDS])).logits[0].numpy()
    agree(logits(tmp_path / "tiny", tmp_path), theirs.astype(np.float64))


def test_an_empty_name_of_a_rope_takes_nothing_from_the_old_one(tmp_path: Path) -> None:
    rope = {"rope_type": None, "type": "linear", "factor": 4.0}
    _, tensors = directory(tmp_path / "tiny", {"rope_scaling": rope})
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits({**TINY, **LINEAR}, tensors, IDS))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_type_and_number_of_files(tmp_path: Path, kind: Any, shards: int) -> None:
    stored = {name: tensor.astype(kind) for name, tensor in weights(TINY).items()}
    save_directory(tmp_path / "tiny", TINY, stored, shards=shards)
    exact = {name: tensor.astype(np.float32) for name, tensor in stored.items()}
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(TINY, exact, IDS))


def test_an_output_layer_of_its_own_counts_whatever_the_configuration_says(tmp_path: Path) -> None:
    tensors = weights(TINY)
    save_directory(tmp_path / "tiny", {**TINY, "tie_word_embeddings": True}, tensors)
    assert not ModelFiles(tmp_path / "tiny", tmp_path).config.tied
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(TINY, tensors, IDS))


def test_an_output_layer_that_is_the_embeddings_is_tied(tmp_path: Path) -> None:
    config = {**TINY, "tie_word_embeddings": True}
    tensors = weights(config)
    save_directory(
        tmp_path / "tiny", config, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    )
    assert ModelFiles(tmp_path / "tiny", tmp_path).config.tied
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(config, tensors, IDS))


def test_tied_embeddings_may_be_stored_as_the_output_layer_alone(tmp_path: Path) -> None:
    config = {**TINY, "tie_word_embeddings": True}
    tensors = weights(config)
    stored = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    del stored["model.embed_tokens.weight"]
    save_directory(tmp_path / "tiny", config, stored)
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(config, tensors, IDS))


def test_buffers_of_old_checkpoints_change_nothing(tmp_path: Path) -> None:
    tensors = weights(TINY)
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32) for i in range(2)}
    save_directory(tmp_path / "tiny", TINY, {**tensors, **old})
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(TINY, tensors, IDS))


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
    ({"attention_bias": False, "with": "bias"}, "attention_bias = false and holds biases"),
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


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"


def bare(*names: str) -> Callable[[Path], None]:
    """Only these files, nothing of a model in them."""

    def spoil(path: Path) -> None:
        for file in path.iterdir():
            file.unlink()
        for name in names:
            (path / name).write_text("{}")

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
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": 3}'), "no weight_map"),
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}'), "is missing"),
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
    spoil(tmp_path / "tiny")
    with pytest.raises(PairError, match=fault) as caught:
        ModelFiles(tmp_path / "tiny", tmp_path)
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    tensors = weights(TINY)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_directory(tmp_path / "tiny", TINY, tensors)
    with pytest.raises(PairError, match=r"layers\.1\.mlp\.up_proj\.weight holds values that are no numbers"):
        logits(tmp_path / "tiny", tmp_path)


# --- GGUF ---

GGUFS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, {}),
    "linear": ({}, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, LINEAR),
    "linear, type not said": ({}, {"llama.rope.scaling.factor": 4.0}, LINEAR),
    "linear, the old key": ({}, {"llama.rope.scale_linear": 4.0}, LINEAR),
    "no scaling, said": ({}, {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, {}),
    "factor one": ({}, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, {}),
    "tied": ({"tie_word_embeddings": True}, {}, {}),
    "wide heads": ({"head_dim": 32}, {}, {}),
    "one key head": ({"num_key_value_heads": 1}, {}, {}),
    "key heads not said": ({"num_key_value_heads": 4}, {"llama.attention.head_count_kv": None}, {}),
    "base not said": ({}, {"llama.rope.freq_base": None}, {}),
    "heads by layer, all alike": ({}, {"llama.attention.head_count": [4, 4]}, {}),
    "no experts": ({}, {"llama.expert_count": 0}, {}),
    "old layout": ({}, {"llama.tensor_data_layout": "Meta AI original pth"}, {}),
    "ids that are none": ({}, {"tokenizer.ggml.eot_token_id": 0xFFFFFFFF}, {}),
}


@pytest.mark.parametrize("name", GGUFS)
def test_a_gguf_gives_the_formulas(tmp_path: Path, name: str) -> None:
    change, fields, meaning = GGUFS[name]
    tensors = write_gguf(tmp_path / "tiny.gguf", change=change, fields=fields)
    agree(logits(tmp_path / "tiny.gguf", tmp_path), reference_logits({**TINY, **change, **meaning}, tensors, IDS))


@pytest.mark.parametrize("part", [1, 3])
def test_a_split_gguf_is_read_whole_whichever_part_is_named(tmp_path: Path, part: int) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf", shards=3)
    agree(logits(tmp_path / f"tiny-{part:05}-of-00003.gguf", tmp_path), reference_logits(TINY, tensors, IDS))
    (tmp_path / "tiny-00002-of-00003.gguf").unlink()
    with pytest.raises(PairError, match=r"tiny-00002-of-00003\.gguf is missing"):
        ModelFiles(tmp_path / f"tiny-{part:05}-of-00003.gguf", tmp_path)


def test_parts_of_a_split_gguf_are_what_their_names_say(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", shards=3)
    third = tmp_path / "tiny-00003-of-00003.gguf"
    shutil.copy(third, tmp_path / "model.gguf")
    with pytest.raises(PairError, match=r"model\.gguf is part 3 of 3 of a model; put the others beside it"):
        GgufCheckpoint(tmp_path / "model.gguf", read_config(ModelFiles(third, tmp_path).directory))
    shutil.copy(third, tmp_path / "tiny-00002-of-00003.gguf")
    with pytest.raises(PairError, match=r"tiny-00002-of-00003\.gguf says that it is part 3 of 3"):
        ModelFiles(third, tmp_path)
    (tmp_path / "model.gguf").rename(tmp_path / "big-00001-of-99999.gguf")
    with pytest.raises(PairError, match=r"big-00002-of-99999\.gguf is missing"):
        ModelFiles(tmp_path / "big-00001-of-99999.gguf", tmp_path)


def test_biases_of_a_gguf_are_added(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf", bias=True)
    agree(logits(tmp_path / "tiny.gguf", tmp_path), reference_logits(TINY, tensors, IDS))


KINDS = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")
SUPER_KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "TQ1_0", "TQ2_0")
"""Kinds of blocks of 256."""


@pytest.mark.parametrize("kind", KINDS + SUPER_KINDS)
def test_every_type_of_a_gguf_is_computed_as_it_is_stored(tmp_path: Path, kind: str) -> None:
    change = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1} if kind in SUPER_KINDS else {}
    own = GGMLQuantizationType[kind]
    tensors = write_gguf(tmp_path / "tiny.gguf", own, change)
    config = {**TINY, **change}
    stored = gguf_tensors(config, tensors)
    exact = {
        name: dequantize(as_blocks(tensor, own), own).astype(np.float32) if tensor.ndim == 2 else tensor
        for name, tensor in stored.items()
    }
    files = ModelFiles(tmp_path / "tiny.gguf", tmp_path)
    checkpoint = files.weights()
    for name in ("mlp.up_proj", "self_attn.v_proj", "mlp.down_proj"):
        there = {"mlp.up_proj": "ffn_up", "self_attn.v_proj": "attn_v", "mlp.down_proj": "ffn_down"}[name]
        np.testing.assert_array_equal(
            checkpoint.tensor(f"model.layers.0.{name}.weight"), exact[f"blk.0.{there}.weight"]
        )
    assert np.isfinite(logits(tmp_path / "tiny.gguf", tmp_path)).all()


def test_q4_0_stays_in_4_bits_and_exact(tmp_path: Path) -> None:
    """The graph's matrices, folded to numbers, are what the file says, the interleaved ones too; the logits follow."""
    own = GGMLQuantizationType.Q4_0
    tensors = write_gguf(tmp_path / "tiny.gguf", own)
    files = ModelFiles(tmp_path / "tiny.gguf", tmp_path)
    checkpoint = files.weights()
    assert isinstance(checkpoint, GgufCheckpoint)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"):
        stored = checkpoint.four_bits(f"model.layers.1.{name}.weight")
        assert stored is not None
        values, scales = stored
        exact = (values.astype(np.float32) - 8) * np.repeat(scales.astype(np.float32), 32, axis=1)
        np.testing.assert_array_equal(exact, checkpoint.tensor(f"model.layers.1.{name}.weight"))
    assert checkpoint.four_bits("model.norm.weight") is None
    graph = llama_graph.stateful(checkpoint, "int8")
    kinds = Counter(op.get_element_type().to_string() for op in graph.get_ops() if op.get_type_name() == "Constant")
    assert (kinds["u4"], kinds["i8"]) == (2 * (2 * 4 + 2), 0), "each matrix and its zero point"
    model = OpenVinoModel(files.config, files.weights, name="tiny", dtype="int8")
    window = model.new_sequence().forward(IDS[:8], 8)
    exact_weights = {name: checkpoint.tensor(name) for name in tensors}
    expected = reference_logits(TINY, exact_weights, IDS[:8])
    assert np.corrcoef(window.ravel(), expected.ravel())[0, 1] > 0.999
    one = model.new_sequence()
    assert np.array_equal(np.concatenate([one.forward([token], 1).copy() for token in IDS[:8]]), window)


REFUSED_GGUFS: list[tuple[dict[str, Any], str]] = [
    ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, "uses yarn rope scaling"),
    ({"llama.expert_count": 8}, "a mixture of 8 experts"),
    ({"llama.attention.sliding_window": 64}, "window of 64 tokens"),
    ({"llama.attention.causal": False}, "reads both ways"),
    ({"llama.logit_scale": 0.5}, "llama.logit_scale = 0.5"),
    ({"llama.hidden_act": "gelu"}, "has the activation gelu"),
    ({"llama.rope.scaling.type": "longrope"}, "uses longrope rope scaling"),
    ({"llama.rope.scaling.factor": -2.0}, "factor is -2"),
    ({"llama.rope.freq_base": float("nan")}, "rope_theta is nan"),
    ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps is nan"),
    ({"llama.attention.clamp_kqv": 8.0}, "clamp_kqv"),
    ({"llama.attention.some_new_scale": 0.3}, "not known here"),
    ({"llama.rope.dimension_count": 8}, "heads of 16 have 8 turned values"),
    ({"llama.attention.value_length": 8}, "heads of 16 have 8 values"),
    ({"llama.attention.head_count": [4, 2]}, "differs from layer to layer"),
    ({"llama.attention.head_count": 0}, "head_count is 0"),
    ({"llama.block_count": 3}, r"no tensor model\.layers\.2\."),
    ({"llama.embedding_length": 128}, "where the configuration says"),
    ({"general.type": "adapter"}, "no model but an adapter"),
    ({"general.architecture": "mamba"}, "a mamba model"),
    ({"llama.context_length": None}, "does not say its llama.context_length"),
    ({"tokenizer.ggml.model": "t5"}, "a t5 tokenizer"),
    ({"tokenizer.ggml.pre": "tekken"}, "splits text the tekken way"),
]


@pytest.mark.parametrize(("fields", "fault"), REFUSED_GGUFS)
def test_a_gguf_that_would_be_computed_wrongly_is_refused(tmp_path: Path, fields: dict[str, Any], fault: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", fields=fields)
    with pytest.raises(PairError, match=fault) as caught:
        ModelFiles(tmp_path / "tiny.gguf", tmp_path)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "fault"),
    [("blk.0.attn_q_norm.weight", "which a plain Llama has not"), ("blk.0.ffn_gate_inp.weight", "mixture of experts")],
)
def test_tensors_of_a_gguf_that_a_llama_has_not_are_named(tmp_path: Path, name: str, fault: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", extra={name: np.ones(64, np.float32)})
    with pytest.raises(PairError, match=fault):
        ModelFiles(tmp_path / "tiny.gguf", tmp_path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_rotary_divisors_are_numbers_above_0(tmp_path: Path, value: float) -> None:
    write_gguf(tmp_path / "tiny.gguf", extra={"rope_freqs.weight": np.full(8, value, np.float32)})
    with pytest.raises(PairError, match=r"divides rotary frequencies by no numbers above 0|no numbers"):
        ModelFiles(tmp_path / "tiny.gguf", tmp_path)


def test_a_tensor_that_shares_bytes_or_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole, name = path.read_bytes(), b"blk.0.ffn_up.weight"
    at = whole.index(name) + len(name) + 4 + 2 * 8 + 4  # behind its axes and its type

    def moved(by: int) -> bytes:
        offset = int.from_bytes(whole[at : at + 8], "little") + by
        return whole[:at] + offset.to_bytes(8, "little") + whole[at + 8 :]

    for data, fault in (
        (whole.replace(name, b"blk.1.ffn_up.weight"), "holds blk.1.ffn_up.weight twice"),
        (moved(1), "begins between two places of 32 bytes"),
        (moved(-64), "share bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(PairError, match=fault):
            ModelFiles(path, tmp_path)


def test_a_hostile_gguf_is_a_sentence_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    huge = (2**60).to_bytes(8, "little")
    hostile = {
        "tensors": whole[:8] + huge + whole[16:],
        "fields": whole[:16] + huge + whole[24:],
        "a name": whole[:24] + huge + whole[32:],
        "big endian": whole[:4] + (3).to_bytes(4, "big") + whole[8:],
        "a pointer": POINTER.encode(),
        "version 1": whole[:4] + (1).to_bytes(4, "little") + whole[8:],
        "cut short": whole[:-100],
        "cut in its metadata": whole[:300],
    }
    at = whole.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    hostile["an array"] = whole[:at] + huge + whole[at + 8 :]
    for what, data in hostile.items():
        path.write_bytes(data)
        with pytest.raises(PairError, match=r"damaged or no GGUF file|LFS pointer"):
            ModelFiles(path, tmp_path / what)


# --- stop ids ---


@pytest.mark.parametrize(
    ("config", "generation", "stops"),
    [
        (2, {"eos_token_id": None}, {2}),
        (2, {}, {2}),
        (2, {"eos_token_id": [3, 4]}, {3, 4}),
        (None, {"eos_token_id": 5}, {5}),
        ([2, 7], {"eos_token_id": []}, {2, 7}),
    ],
)
def test_null_takes_no_stop_id_away(tmp_path: Path, config: Any, generation: dict[str, Any], stops: set[int]) -> None:
    directory(tmp_path / "tiny", {"eos_token_id": config})
    (tmp_path / "tiny" / "generation_config.json").write_text(json.dumps(generation))
    assert set(ModelFiles(tmp_path / "tiny", tmp_path).config.stop_ids) == stops


def test_the_end_of_turn_that_the_template_writes_is_a_stop(tmp_path: Path) -> None:
    """Llama 3's GGUFs of spring 2024: EOS is the end of a text, and turns end with another token."""
    fields = {
        "tokenizer.ggml.eot_token_id": None,
        "tokenizer.chat_template": "{% for m in messages %}!{{ m.content }}#{% endfor %}",
        "tokenizer.ggml.token_type": [3] * 4 + [1] * 124,
    }
    assert BYTE_LEVEL["tokenizer.ggml.tokens"][2] == "#"
    write_gguf(tmp_path / "tiny.gguf", fields=fields)
    assert ModelFiles(tmp_path / "tiny.gguf", tmp_path).tokenizer().stop_ids == {2, 3}
