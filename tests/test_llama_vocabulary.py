"""A real vocabulary: Llama 2's, as its GGUFs carry it, against what llama.cpp makes of its own test texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from app.backends.checkpoints.model_files import ModelFiles
from app.pairs.tokenizer import TextTokenizer
from tests.support.ggufs import write_gguf

FILE = Path(__file__).with_name("fixtures") / "llama_spm.json.gz"
RECORDED: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
CASES = list(zip(RECORDED["texts"], RECORDED["ids"], strict=True))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("llama-2")
    tokens = RECORDED["tokens"]
    scores = [-max(0.0, place - 259.0) for place in range(len(tokens))]
    for place, score in RECORDED["odd_scores"].items():
        scores[int(place)] = score
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [*RECORDED["types"], *[1] * (len(tokens) - 259)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    write_gguf(folder / "llama-2.gguf", change={"vocab_size": len(tokens)}, tokenizer=fields)
    return ModelFiles(folder / "llama-2.gguf", folder / "cache").tokenizer()


@pytest.mark.parametrize(("text", "ids"), CASES, ids=map(str, range(len(CASES))))
def test_llama_2_splits_text_as_llama_cpp_does(tokenizer: TextTokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.encode(text) == [1, *ids]
    assert b"".join(map(tokenizer.piece, ids)).decode() == (f" {text}" if text else "")
