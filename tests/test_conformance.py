"""The conformance table: every variant of a Llama's files gives the logits of the formulas, or is refused by name.

Nothing of the reference is shared with the engine: `tests.support.llamas.reference_logits` is the paper in float64, and
the same directories go through transformers where it is installed. Here directories; `test_conformance_ggufs.py` has
GGUF files, `test_conformance_refusals.py` what is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from app.backends.checkpoints.model_files import ModelFiles
from tests.support.conformance import IDS, LINEAR, agree, directory, logits
from tests.support.llamas import LLAMA3_ROPE, TINY, reference_logits, save_directory, weights

pytestmark = pytest.mark.slow

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


def test_one_whole_file_counts_beside_an_index(tmp_path: Path) -> None:
    """As in transformers: what lies beside it is of another time."""
    save_directory(tmp_path / "tiny", TINY, weights(TINY, seed=5), shards=3)
    tensors = weights(TINY)
    save_directory(tmp_path / "tiny", TINY, tensors)
    agree(logits(tmp_path / "tiny", tmp_path), reference_logits(TINY, tensors, IDS))


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
