"""The fake in the library's place, and pairs of it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.backends.neuron import machine
from app.backends.neuron.loading import load_pair
from app.backends.neuron.model import NeuronModel
from app.neuron.catalogue import LIBRARIES, NXD_INFERENCE

if TYPE_CHECKING:
    from tests.support.neuron_device import Runtime
    from tests.support.neuron_pairs import Load

VERSIONS = {"transformers-neuronx": {"transformers": "4.47.1"}, "nxd-inference": {"transformers": "4.57.6"}}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    """The library that is installed; a test runs on each, or parametrises it indirectly."""
    return str(request.param)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, library: str) -> Runtime:
    """The fake in the library's place, on a machine that EC2 does not name."""
    from tests.support import neuron_fake, nxd_fake

    def version(package: str) -> str:
        if package not in VERSIONS[library]:
            raise metadata.PackageNotFoundError(package)
        return VERSIONS[library][package]

    monkeypatch.setattr(machine, "_claimed_cores", None)
    monkeypatch.setattr(machine, "product_name", lambda: "")
    monkeypatch.setattr(metadata, "version", version)
    return nxd_fake.install(monkeypatch) if library == NXD_INFERENCE else neuron_fake.install(monkeypatch)


@pytest.fixture
def pair(runtime: Runtime, tmp_path: Path) -> Load:
    """Loads a fake pair; `target` and `draft` describe their logits."""
    from tests.support import neuron_device
    from tests.support.neuron_pairs import AGREEING, WINDOWS, V

    def load(
        target: dict[str, Any] | None = None,
        draft: dict[str, Any] | None = None,
        vocab_size: int = V,
        config: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[NeuronModel, NeuronModel]:
        target_dir = neuron_device.write_checkpoint(
            tmp_path / "Big", fake=target, vocab_size=vocab_size, **(config or {})
        )
        draft_dir = neuron_device.write_checkpoint(
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
