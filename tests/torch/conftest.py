"""Tiny checkpoints and pairs for the torch backend, one thread for its tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.engine.pair import Pair
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from tests.support.llamas import TINY, conditioned, save_directory, save_tokenizer, weights


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other, which on a busy machine takes longer than the work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tokenizer(save_directory(tmp_path / "tiny", TINY, weights(TINY)))


@pytest.fixture
def sighted(tmp_path: Path) -> Path:
    """A draft of two layers that reads states."""
    return conditioned(tmp_path / "sighted", np.arange(3, 123, 3), layers=2)


def plain(directory: Path, kept: Any) -> Path:
    config = {**TINY, "num_hidden_layers": 1, "playground": {"kept_ids": 40}}
    tensors = weights(config, seed=1)
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"][kept])
    draft = save_directory(directory, config, {})
    save_file({**tensors, "kept_ids": kept}, draft / "model.safetensors")
    return draft


@pytest.fixture(params=[False, True], ids=["plain", "sighted"])
def trimmed(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    target = save_tokenizer(save_directory(tmp_path / "target", TINY, weights(TINY)))
    kept = np.arange(3, 123, 3)
    draft = conditioned(tmp_path / "draft", kept) if request.param else plain(tmp_path / "draft", kept)
    return pairs.load(PairOptions(backend="torch", target=target, draft=draft, device="cpu", dtype="f32"))
