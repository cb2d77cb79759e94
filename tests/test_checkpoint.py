"""Checkpoints on disk: both kinds give the logits of the formulas, and a damaged one gives a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint
from app.backends.checkpoints.config import read_config
from app.backends.checkpoints.gguf_file import GgufCheckpoint, sidecar
from app.backends.openvino.model import OpenVinoModel
from app.errors import PairError
from app.pairs import registry as pairs
from app.pairs.embedded import EMBEDDED_FILE, embedded_target
from app.pairs.options import PairOptions
from tests.support.ggufs import random_blocks, write_gguf
from tests.support.llamas import LLAMA3_ROPE, TINY, reference_logits, save_directory, save_tokenizer, weights

IDS = [5, 17, 3, 99, 64, 2, 2, 120, 31, 8] * 8


def engine_logits(directory: Path, dtype: str = "f32") -> Any:
    config = read_config(directory)
    model = OpenVinoModel(config, lambda: SafetensorsCheckpoint(directory), name="tiny", dtype=dtype)
    return model.new_sequence().forward(IDS, len(IDS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "bias", "shards"),
    [
        ({}, False, 1),
        ({"tie_word_embeddings": True}, False, 1),
        ({"rope_scaling": LLAMA3_ROPE, "num_key_value_heads": 1}, False, 3),
        ({"head_dim": 32, "attention_bias": True}, True, 1),
    ],
)
def test_the_engine_computes_the_formulas(tmp_path: Path, change: dict[str, Any], bias: bool, shards: int) -> None:
    config = {**TINY, **change}
    tensors = weights(config, bias=bias)
    directory = save_directory(tmp_path / "tiny", config, tensors, shards=shards)
    expected = reference_logits(config, tensors, IDS)
    np.testing.assert_allclose(engine_logits(directory), expected, atol=1e-3 * np.abs(expected).max())


def test_weights_stored_as_bf16_are_read(tmp_path: Path) -> None:
    tensors = weights(TINY)
    rounded = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    directory = save_directory(tmp_path / "tiny", TINY, rounded)
    exact = {name: tensor.astype(np.float32) for name, tensor in rounded.items()}
    expected = reference_logits(TINY, exact, IDS)
    np.testing.assert_allclose(engine_logits(directory), expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_quantised_weights_stay_near_the_formulas(tmp_path: Path) -> None:
    tensors = weights(TINY)
    directory = save_directory(tmp_path / "tiny", TINY, tensors)
    expected = reference_logits(TINY, tensors, IDS)
    for dtype, least in (("int8", 0.995), ("bf16", 0.995), ("f16", 0.9999)):
        assert np.corrcoef(engine_logits(directory, dtype).ravel(), expected.ravel())[0, 1] > least, dtype


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_a_gguf_gives_the_weights_it_was_made_from(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tiny.gguf"
    tensors = write_gguf(path, GGMLQuantizationType[kind])
    config = read_config(sidecar(path, tmp_path / "cache"))
    assert config.stop_ids == (2, 3)
    assert (config.num_layers, config.num_kv_heads, config.head_size, config.tied) == (2, 2, 16, False)
    checkpoint = GgufCheckpoint(path, config)
    loosest = {"F32": 0.0, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2, "Q4_0": 0.3, "Q4_1": 0.3}[kind]
    for name, tensor in tensors.items():
        assert name in checkpoint
        assert np.abs(checkpoint.tensor(name) - tensor).max() <= loosest * np.abs(tensor).max(), name


K_QUANTS = ("Q4_K", "Q5_K", "Q6_K")


def by_ggml(block: bytes, kind: str) -> list[float]:
    """One block of 256 values, written from ggml's C: dequantize_row_q4_K, _q5_K and _q6_K."""

    def half(at: int) -> float:
        return float(np.frombuffer(block[at : at + 2], np.float16)[0])

    out = [0.0] * 256
    if kind == "Q6_K":
        low, high, scales, d = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8), half(208)
        for half_block in range(2):
            ql, qh, sc = low[64 * half_block :], high[32 * half_block :], scales[8 * half_block :]
            for i in range(32):
                nibbles = (ql[i] & 15, ql[i + 32] & 15, ql[i] >> 4, ql[i + 32] >> 4)
                for part, nibble in enumerate(nibbles):
                    q = (nibble | (((qh[i] >> (2 * part)) & 3) << 4)) - 32
                    out[128 * half_block + 32 * part + i] = d * int(sc[i // 16 + 2 * part]) * q
        return out
    d, least, packed = half(0), half(2), block[4:16]
    high = block[16:48] if kind == "Q5_K" else bytes(32)
    low = block[48:] if kind == "Q5_K" else block[16:]
    for part in range(8):
        if part < 4:
            scale, minimum = packed[part] & 63, packed[part + 4] & 63
        else:
            scale = (packed[part + 4] & 15) | ((packed[part - 4] >> 6) << 4)
            minimum = (packed[part + 4] >> 4) | ((packed[part] >> 6) << 4)
        for i in range(32):
            byte = low[32 * (part // 2) + i]
            q = (byte >> 4 if part % 2 else byte & 15) + (16 if high[i] >> part & 1 else 0)
            out[32 * part + i] = d * scale * q - least * minimum
    return out


@pytest.mark.parametrize("kind", K_QUANTS)
def test_k_quants_are_read_as_ggml_reads_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, GGMLQuantizationType[kind], {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1})
    config = read_config(sidecar(path, tmp_path / "cache"))
    checkpoint = GgufCheckpoint(path, config)
    blocks = random_blocks((128, 256), GGMLQuantizationType[kind])
    expected = np.array([by_ggml(row.tobytes(), kind) for row in blocks])
    np.testing.assert_allclose(
        checkpoint.tensor("model.layers.0.self_attn.v_proj.weight"), expected, rtol=1e-5, atol=1e-6
    )
    keys = expected.reshape(2, 32, 2, 256).swapaxes(1, 2).reshape(128, 256)  # from GGUF's interleaved rotary order
    np.testing.assert_allclose(checkpoint.tensor("model.layers.0.self_attn.k_proj.weight"), keys, rtol=1e-5, atol=1e-6)
    rows = OpenVinoModel(config, lambda: checkpoint, name="tiny", dtype="f32").new_sequence().forward(IDS, 2)
    assert np.isfinite(rows).all()


def test_a_ggufs_rope_factors_are_llama_3s_scaling(tmp_path: Path) -> None:
    path, stretched = tmp_path / "tiny.gguf", {**TINY, "rope_scaling": LLAMA3_ROPE}
    directory = save_directory(tmp_path / "tiny", stretched, weights(TINY))
    plain, scaled = read_config(save_directory(tmp_path / "plain", TINY, {})), read_config(directory)
    factors = plain.rope_frequencies() / scaled.rope_frequencies()
    assert factors.max() == 8
    write_gguf(path, extra={"rope_freqs.weight": factors.astype(np.float32)})
    config = read_config(sidecar(path, tmp_path / "cache"))
    model = OpenVinoModel(config, lambda: GgufCheckpoint(path, config), name="tiny", dtype="f32")
    ours, theirs = model.new_sequence().forward(IDS, len(IDS)), engine_logits(directory)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_a_gguf_and_a_directory_of_the_same_weights_agree(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    tensors = write_gguf(path, GGMLQuantizationType.F32)
    config = read_config(sidecar(path, tmp_path / "cache"))
    model = OpenVinoModel(config, lambda: GgufCheckpoint(path, config), name="tiny", dtype="f32")
    ours = model.new_sequence().forward(IDS, len(IDS))
    directory = save_directory(tmp_path / "tiny", TINY, tensors)
    np.testing.assert_array_equal(ours, engine_logits(directory))


@pytest.mark.parametrize("cut", [0, 3, 40, 400, 4000])
def test_a_cut_off_gguf_is_a_sentence(tmp_path: Path, cut: int) -> None:
    whole, path = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    write_gguf(whole, GGMLQuantizationType.F32)
    path.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(PairError, match=r"damaged or no GGUF file|is empty"):
        sidecar(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(PairError, match="holds a mamba model"):
        sidecar(tmp_path / "other.gguf", tmp_path / "cache")
    with pytest.raises(PairError, match="holds a gpt2 model"):
        read_config(save_directory(tmp_path / "gpt", {**TINY, "model_type": "gpt2"}, {}))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda d: (d / "config.json").unlink(), "There is no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "config.json").write_text("{}"), "does not give 'num_attention_heads'"),
        (lambda d: (d / "config.json").write_text(json.dumps({**TINY, "rope_scaling": {"type": "yarn"}})), "yarn"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: (d / "model.safetensors").write_bytes(b"nonsense"), "is damaged"),
    ],
)
def test_a_damaged_directory_is_a_sentence(tmp_path: Path, spoil: Any, fault: str) -> None:
    directory = save_directory(tmp_path / "tiny", TINY, weights(TINY))
    spoil(directory)
    with pytest.raises(PairError, match=fault) as caught:
        SafetensorsCheckpoint(directory)
    assert str(caught.value).endswith(".")


def test_the_graph_is_kept_and_read_back(tmp_path: Path) -> None:
    directory = save_directory(tmp_path / "tiny", TINY, weights(TINY))
    config = read_config(directory)
    opened = []

    def open_weights() -> SafetensorsCheckpoint:
        opened.append(1)
        return SafetensorsCheckpoint(directory)

    def model() -> OpenVinoModel:
        files, cache = sorted(directory.iterdir()), tmp_path / "cache"
        return OpenVinoModel(config, open_weights, name="tiny", files=files, cache_dir=cache, dtype="int8")

    first = model().new_sequence().forward(IDS, 4).copy()
    second = model().new_sequence().forward(IDS, 4).copy()
    assert len(opened) == 1
    np.testing.assert_array_equal(first, second)


def test_a_damaged_embedded_model_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path))
    with pytest.raises(PairError, match=r"run \./launch\.sh setup"):
        embedded_target()
    (tmp_path / EMBEDDED_FILE).write_bytes(b"GGUF")
    with pytest.raises(PairError, match="checksum is wrong"):
        embedded_target()


def test_a_draft_of_another_family_is_refused(tmp_path: Path) -> None:
    target = save_tokenizer(save_directory(tmp_path / "target", TINY, weights(TINY)))
    for name, change, fault in (
        ("narrow", {"vocab_size": 100}, "made for a vocabulary of 100 tokens"),
        ("absent", None, "There is no model at"),
    ):
        draft = tmp_path / name
        if change is not None:
            save_directory(draft, {**TINY, **change}, weights({**TINY, **change}))
        with pytest.raises(PairError, match=fault):
            pairs.load(PairOptions(target=target, draft=draft, dtype="f32"))
