"""The fake in the library's place, and pairs of it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.backends.neuron import machine
from app.backends.neuron.loading import load_pair
from app.backends.neuron.model import NeuronModel

if TYPE_CHECKING:
    from tests.support import neuron_fake
    from tests.support.neuron_pairs import Load


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> neuron_fake.Runtime:
    """The fake in the library's place, on a machine that EC2 does not name."""
    from tests.support import neuron_fake

    monkeypatch.setattr(machine, "_claimed_cores", None)
    monkeypatch.setattr(machine, "_product_name", lambda: "")
    monkeypatch.setattr(metadata, "version", lambda name: {"transformers": "4.47.1"}[name])
    return neuron_fake.install(monkeypatch)


@pytest.fixture
def pair(runtime: neuron_fake.Runtime, tmp_path: Path) -> Load:
    """Loads a fake pair; `target` and `draft` describe their logits."""
    from tests.support import neuron_fake
    from tests.support.neuron_pairs import AGREEING, WINDOWS, V

    def load(
        target: dict[str, Any] | None = None, draft: dict[str, Any] | None = None, vocab_size: int = V, **options: Any
    ) -> tuple[NeuronModel, NeuronModel]:
        target_dir = neuron_fake.write_checkpoint(tmp_path / "Big", fake=target, vocab_size=vocab_size)
        draft_dir = neuron_fake.write_checkpoint(
            tmp_path / "Small", fake=AGREEING if draft is None else draft, vocab_size=vocab_size, num_hidden_layers=1
        )
        defaults: dict[str, Any] = {
            "dtype": "f32",
            "tp_degree": 2,
            "n_positions": 64,
            "windows": WINDOWS,
            "num_cores": 2,
        }
        return load_pair(target_dir, draft_dir, **(defaults | options))

    return load
