"""The conformance table of GGUF files: every variant gives the logits of the formulas, or is refused by name."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, dequantize

from app.backends.checkpoints.config import read_config
from app.backends.checkpoints.gguf_fields import KINDS as KINDS_OF_FIELDS
from app.backends.checkpoints.gguf_file import GgufCheckpoint
from app.backends.checkpoints.gguf_reader import GgufFile
from app.backends.checkpoints.model_files import ModelFiles
from app.backends.openvino import llama_graph
from app.backends.openvino.model import OpenVinoModel
from app.errors import PairError
from tests.support.conformance import IDS, LINEAR, POINTER, agree, logits
from tests.support.ggufs import BYTE_LEVEL, BYTE_TOKENS, as_blocks, gguf_tensors, write_gguf
from tests.support.llamas import TINY, reference_logits

pytestmark = pytest.mark.slow

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
    ({"llama.rope.freq_base": 0.0}, "rope_theta is 0"),
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
    ({"tokenizer.ggml.eos_token_id": 2.5}, "tokenizer.ggml.eos_token_id is 2.5"),
    ({"tokenizer.ggml.eot_token_id": "3"}, "tokenizer.ggml.eot_token_id is 3"),
    ({"tokenizer.ggml.bos_token_id": True}, "tokenizer.ggml.bos_token_id is True"),
    ({"tokenizer.ggml.add_bos_token": "false"}, "tokenizer.ggml.add_bos_token is false"),
    ({"tokenizer.ggml.add_eos_token": 2}, "tokenizer.ggml.add_eos_token is 2"),
    ({"tokenizer.ggml.model": "t5"}, "a t5 tokenizer"),
    (
        {"tokenizer.ggml.tokens": [*BYTE_TOKENS[:60], *BYTE_TOKENS[50:51], *BYTE_TOKENS[61:]]},
        "tokens 50 and 60 are both",
    ),
    ({"llama.expert_used_count": 2}, "expert_used_count = 2 and no experts"),
    ({"llama.rope.scaling.type": "llama3"}, r"tiny\.gguf does not give 'low_freq_factor'"),
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


def test_a_scale_of_4_bits_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """Its blocks are taken as they are, never widened."""
    path = tmp_path / "tiny.gguf"
    tensors = write_gguf(path, GGMLQuantizationType.Q4_0)
    block = as_blocks(tensors["model.layers.1.mlp.down_proj.weight"], GGMLQuantizationType.Q4_0).tobytes()[:18]
    whole = path.read_bytes()
    assert whole.count(block) == 1
    path.write_bytes(whole.replace(block, np.float16(np.nan).tobytes() + block[2:]))
    files = ModelFiles(path, tmp_path)
    with pytest.raises(PairError, match=r"layers\.1\.mlp\.down_proj\.weight holds values that are no numbers"):
        OpenVinoModel(files.config, files.weights, name="tiny", dtype="int8")


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
        (whole[: at - 4] + (31).to_bytes(4, "little") + whole[at:], "in a type of number 31, which is not known here"),
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


def test_fields_of_a_gguf_are_of_the_kind_that_their_names_say(tmp_path: Path) -> None:
    """Each field that is read, with a value of another kind; and one that stands twice."""
    path = tmp_path / "tiny.gguf"
    for name, kind in KINDS_OF_FIELDS.items():
        wrong = [0.5] if kind in ("texts", "whole numbers") else ["a"]
        writer = GGUFWriter(path, "llama")
        writer.kv_data[0].pop(name, None)
        writer.add_array(name, wrong)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        with pytest.raises(PairError, match=re.escape(f"({name} is {wrong}, not {kind})")):
            GgufFile(path)
    write_gguf(path)
    path.write_bytes(path.read_bytes().replace(b"ggml.eot_token_id", b"ggml.eos_token_id"))
    with pytest.raises(PairError, match=r"says tokenizer\.ggml\.eos_token_id twice"):
        ModelFiles(path, tmp_path)


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
