"""A model's shape read from a config.json: what no Llama has is refused, what a library cannot load is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.__main__ import main
from app.errors import PairError
from app.neuron.catalogue import NXD_INFERENCE, model_config
from app.neuron.memory import kv_bytes
from app.neuron.plan import plan


def test_a_local_config_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "TinyLlama"
    folder.mkdir()
    config = {
        "vocab_size": 32000,
        "hidden_size": 2048,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "intermediate_size": 5632,
        "max_position_embeddings": 2048,
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = model_config(str(folder))
    assert model == model_config(str(folder / "config.json"))
    assert model.name == "TinyLlama"
    assert model.num_parameters == 1_100_048_384  # as published


SHAPE = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"vocab_size": "many"}'])
def test_a_config_that_is_no_llama_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PairError, match=r"config\.json"):
        model_config(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "qwen3"}, "describes a qwen3 model"),
        ({"num_attention_heads": 0}, "gives 0 for num_attention_heads"),
        ({"num_hidden_layers": -1}, "gives -1 for num_hidden_layers"),
        ({"hidden_size": True}, "gives True for hidden_size"),
        ({"num_key_value_heads": 3}, "3 key and value heads, which do not divide 4"),
        ({"num_key_value_heads": 8}, "8 key and value heads, which do not divide 4"),
        ({"hidden_size": 66}, "a width of 66, which 4 heads do not divide"),
        ({"head_dim": 15}, "heads of 15, which is odd"),
        ({"head_dim": "wide"}, "gives 'wide' for head_dim"),
        ({"intermediate_size": None}, "gives no intermediate_size"),
    ],
)
def test_a_shape_no_llama_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | change))
    assert main(["plan", "--target", str(tmp_path), "--draft", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_the_size_of_a_head_counts(tmp_path: Path) -> None:
    """Wider heads than the width is split into: more parameters, a larger cache, and a library that cannot load it."""
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    plain = model_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | {"head_dim": 32}))
    wide = model_config(str(tmp_path))
    assert (plain.head_dim, wide.head_dim) == (16, 32)
    assert kv_bytes(wide, "bf16", 100) == 2 * kv_bytes(plain, "bf16", 100)
    assert wide.num_parameters - plain.num_parameters == 2 * 2 * 64 * 16 * (4 + 2)
    assert "heads of 32 where transformers-neuronx takes 16" in plan("inf2.xlarge", wide, wide).refusals[0]
    assert plan("inf2.xlarge", wide, wide, library=NXD_INFERENCE).ok


def test_a_target_whose_windows_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | {"model_type": "mistral"}))
    mistral = model_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    llama = model_config(str(tmp_path))
    assert "cannot score windows" in plan("inf2.xlarge", mistral, llama).refusals[0]
    assert plan("inf2.xlarge", llama, mistral).ok
    assert "is a mistral" in plan("inf2.xlarge", llama, mistral, library=NXD_INFERENCE).refusals[0]


@pytest.mark.parametrize("dtype", ["BF16", " bf16 ", "F32"])
def test_a_precision_may_be_written_in_capitals(dtype: str) -> None:
    assert plan("inf2.48xlarge", "llama-2-13b", "llama-2-7b", dtype).dtype == dtype.strip().lower()
