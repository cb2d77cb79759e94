"""llama.cpp as a backend: the contract of `app.engine.model` on tiny GGUFs, whole runs, and which engine `auto` takes.

What needs its package is left out where that is not installed: it is compiled, about ten minutes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from app.backends.checkpoints.gguf_reader import GgufFile
from app.backends.llamacpp import auto
from app.backends.llamacpp.library import library
from app.engine.session import Session
from app.errors import PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request
from tests.support.ggufs import write_gguf
from tests.support.llamas import TINY, reference_logits, save_directory, save_tokenizer, weights

COMPILED = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="needs app/backends/requirements-llamacpp.txt, compiled"
)
LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}
IDS = [5, 17, 3, 99, 64, 2, 2, 120, 31, 8] * 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))


def gguf(path: Path, **options: Any) -> Path:
    write_gguf(path, **options)
    return path


def options(target: Path, draft: Path | None = None, backend: str = "llamacpp", **more: Any) -> PairOptions:
    return PairOptions(backend=backend, target=target, draft=draft, **more)


@COMPILED
@pytest.mark.parametrize(
    ("change", "fields", "meaning"),
    [
        ({}, {}, {}),
        ({"tie_word_embeddings": True}, {}, {}),
        ({"num_key_value_heads": 1}, {}, {}),
        ({}, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, LINEAR),
    ],
)
def test_the_formulas_are_computed(
    tmp_path: Path, change: dict[str, Any], fields: dict[str, Any], meaning: dict[str, Any]
) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf", change=change, fields=fields)
    sequence = pairs.load(options(tmp_path / "tiny.gguf")).target.new_sequence()
    expected = reference_logits({**TINY, **change, **meaning}, tensors, IDS)
    rows = sequence.forward(IDS, len(IDS)).copy()
    np.testing.assert_allclose(rows, expected, atol=2e-2 * np.abs(expected).max())  # its caches are f16
    sequence.rollback(7)
    again = sequence.forward(IDS[7:], 3)
    np.testing.assert_allclose(again, rows[-3:], atol=2e-2 * np.abs(expected).max())
    assert sequence.length == len(IDS)


@COMPILED
def test_what_was_rolled_back_leaves_no_trace_and_sequences_share_nothing(tmp_path: Path) -> None:
    model = pairs.load(options(gguf(tmp_path / "tiny.gguf"), n_positions=200)).target
    first, second = model.new_sequence(), model.new_sequence()
    fresh = first.forward(IDS, 1).copy()
    second.forward([77] * 40, 3)
    second.rollback(0)
    for cut in (0, 1, 33, 79):
        second.rollback(0)
        if cut:
            second.forward(IDS[:cut], 1)
        second.forward([77] * 40, 3)
        second.rollback(cut)
        np.testing.assert_allclose(second.forward(IDS[cut:], 1), fresh, atol=2e-2 * np.abs(fresh).max())
    first.close()
    again = model.new_sequence()
    assert again.length == 0
    np.testing.assert_allclose(again.forward(IDS, 1), fresh, atol=2e-2 * np.abs(fresh).max())
    with pytest.raises(AssertionError):
        again.forward([1] * 200, 1)


@COMPILED
def test_a_long_prompt_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pairs.load(options(gguf(tmp_path / "tiny.gguf"))).target
    whole = model.new_sequence().forward(IDS, 40).copy()
    monkeypatch.setattr("app.backends.llamacpp.model.PREFILL", 16)
    parts = model.new_sequence().forward(IDS, 40)
    np.testing.assert_allclose(parts, whole, atol=2e-2 * np.abs(whole).max())


@COMPILED
@pytest.mark.parametrize("backend", ["llamacpp", "auto"])
def test_a_pair_runs_with_a_draft_in_a_directory_too(tmp_path: Path, backend: str) -> None:
    target = gguf(tmp_path / "target.gguf", kind=GGMLQuantizationType.Q8_0)
    draft = save_tokenizer(save_directory(tmp_path / "draft", TINY, weights(TINY)))
    for each in (draft, gguf(tmp_path / "draft.gguf")):
        pair = pairs.load(options(target, each, backend, n_positions=128))
        assert pair.backend in ("llamacpp", "openvino")
        assert any("in a check at load" in note for note in pair.notes) == (pair.backend == "llamacpp")
        metrics = Metrics(Session(pair).run(Request(prompt="+,-./", k=3, max_tokens=20, chat_template=False)))
        assert metrics.reason in ("stop", "length")
        assert metrics.arms["speculative"].token_ids


@COMPILED
def test_auto_keeps_what_it_measured_and_takes_the_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf(tmp_path / "tiny.gguf", kind=GGMLQuantizationType.Q8_0)
    first = pairs.load(options(path, backend="auto"))
    (kept,) = (tmp_path / "models" / "cache").glob("paces-*/paces.json")
    measured = json.loads(kept.read_text())
    assert set(measured) == {"openvino", "llamacpp"}
    faster = min(measured, key=lambda name: float(measured[name]["one"]))
    assert first.backend == faster
    monkeypatch.setattr(auto, "_pace", None)  # measured once
    assert pairs.load(options(path, backend="auto")).backend == faster
    slow = {"openvino": auto.Pace(0.04, 0.04), "llamacpp": auto.Pace(0.02, 0.05)}
    monkeypatch.setattr(auto, "_paces", lambda *_: slow)
    pair = pairs.load(options(path, backend="auto"))
    assert pair.backend == "llamacpp"
    assert any("the default engine 40 ms for one row and 40 for five, llama.cpp 20 ms" in note for note in pair.notes)


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    library.cache_clear()
    with pytest.raises(PairError, match=r"llama\.cpp is not installed \(.*llama_cpp.*\); start with \./launch\.sh"):
        library()


def test_auto_runs_without_the_package_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise PairError("llama.cpp is not installed (no such module).")

    monkeypatch.setattr(auto, "library", missing)
    pair = pairs.load(options(gguf(tmp_path / "tiny.gguf"), backend="auto"))
    assert pair.backend == "openvino"
    assert pair.notes[-1] == "The default engine runs this pair alone. llama.cpp is not installed (no such module)."


def test_auto_says_why_a_directory_runs_on_the_default_engine(tmp_path: Path) -> None:
    path = save_tokenizer(save_directory(tmp_path / "tiny", TINY, weights(TINY)))
    pair = pairs.load(options(path, backend="auto"))
    assert (pair.backend, pair.notes[-1]) == (
        "openvino",
        "llama.cpp runs GGUF files only, so the default engine runs this pair.",
    )


@COMPILED
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, kind: str, value: float) -> None:
    """As on the other engines, by the same name; of a block its scale is spoilt."""
    path = gguf(tmp_path / "tiny.gguf", kind=GGMLQuantizationType[kind])
    single = np.array(value, np.float32).tobytes()
    spoilt = {"F32": single, "BF16": single[2:]}.get(kind, np.array(value, np.float16).tobytes())
    at = GgufFile(path).tensors["blk.1.ffn_up.weight"].offset
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + spoilt + whole[at + len(spoilt) :])
    with pytest.raises(PairError, match=r"^model\.layers\.1\.mlp\.up_proj\.weight holds values that are no numbers"):
        pairs.load(options(path))


@COMPILED
def test_what_it_cannot_run_is_refused(tmp_path: Path) -> None:
    path = save_tokenizer(save_directory(tmp_path / "tiny", TINY, weights(TINY)))
    with pytest.raises(PairError, match=r"tiny is a directory, and llama\.cpp runs GGUF files"):
        pairs.prepare(options(path))
    with pytest.raises(PairError, match="leave --dtype int8 out"):
        pairs.prepare(options(gguf(tmp_path / "a.gguf"), dtype="int8"))
