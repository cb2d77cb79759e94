"""Every fault that can be known is a sentence, before anything is imported or compiled."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.backends.neuron import machine, packages  # noqa: E402
from app.backends.neuron.loading import load_pair  # noqa: E402
from app.errors import PairError  # noqa: E402
from tests.support import neuron_fake  # noqa: E402
from tests.support.neuron_pairs import (  # noqa: E402
    WINDOWS,
    Load,
)


@pytest.fixture
def fault(runtime: neuron_fake.Runtime, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Loads a pair that cannot work; returns the sentence, having checked that nothing was imported or compiled."""
    neuron_fake.write_checkpoint(tmp_path / "Big")
    neuron_fake.write_checkpoint(tmp_path / "Small", num_hidden_layers=1)

    def refuse(**options: Any) -> str:
        defaults = {"tp_degree": 2, "n_positions": 64, "num_cores": 2}
        before = os.environ.get("NEURON_RT_NUM_CORES")
        with pytest.raises(PairError) as raised:
            load_pair(tmp_path / "Big", tmp_path / "Small", **(defaults | options))
        assert os.environ.get("NEURON_RT_NUM_CORES") == before
        assert runtime.programs_compiled == 0
        message = str(raised.value)
        assert message.endswith(".")
        assert "\n" not in message
        return message

    yield refuse
    assert runtime.loads == []


@pytest.mark.parametrize("package", packages.PACKAGES)
def test_the_placeholder_packages_are_recognised(
    fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    folder = tmp_path / "site" / package
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('raise ImportError("WRONG PACKAGE. Please install the package from ...")\n')
    monkeypatch.delitem(sys.modules, package)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    message = fault(num_cores=None)  # told on any machine
    assert f"{package.replace('_', '-')} installed here is PyPI's empty placeholder" in message


def test_a_host_without_a_device(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_devices", list)
    assert "no Neuron device (/dev/neuron*)" in fault(num_cores=None)


def test_a_missing_driver(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_devices", list)
    monkeypatch.setattr(machine, "_product_name", lambda: "inf2.8xlarge")
    assert "aws-neuronx-dkms" in fault(num_cores=None)


def test_trn2_is_refused(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_product_name", lambda: "trn2.48xlarge")
    assert "does not support trn2.48xlarge" in fault(num_cores=None)


@pytest.mark.parametrize("package", packages.PACKAGES)
def test_missing_packages(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.delitem(sys.modules, package)
    message = fault()
    assert f"{package.replace('_', '-')} is not installed" in message
    assert "requirements-neuron.txt" in message


@pytest.mark.parametrize("version", ["4.48.0", "4.48.0.dev0", "5.2.1", "4.43.2", "4.36"])
def test_wrong_versions_of_transformers(
    fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert f"transformers {version} is installed" in fault()


@pytest.mark.parametrize("version", ["4.43.3", "4.47.1"])
def test_right_versions_of_transformers(pair: Load, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert pair()[0].windows == WINDOWS


def test_too_few_cores(fault: Callable[..., str]) -> None:
    assert "tp_degree 8 needs 8 NeuronCores" in fault(tp_degree=8)


def test_a_degree_the_topology_forbids(fault: Callable[..., str]) -> None:
    assert "does not allow tp_degree 3" in fault(tp_degree=3, num_cores=32)


def test_some_devices_of_a_machine(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_devices", lambda: [Path("/dev/neuron0"), Path("/dev/neuron1")])
    monkeypatch.setattr(machine, "_product_name", lambda: "inf2.48xlarge")
    assert "use one of 1, 2, 4." in fault(tp_degree=8, num_cores=None)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("NEURON_RT_NUM_CORES", "1", "gives this process 1 NeuronCores"),
        ("NEURON_RT_VISIBLE_CORES", "3", "gives this process 1 NeuronCores"),
        ("NEURON_RT_VISIBLE_CORES", "all", "names no cores"),
    ],
)
def test_an_environment_with_too_few_cores(
    fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert said in fault()


def test_visible_cores_take_precedence(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "2")
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "0")
    assert "NEURON_RT_VISIBLE_CORES=0" in fault()


def test_partial_overlap_with_a_pair_of_this_process(pair: Load, runtime: neuron_fake.Runtime) -> None:
    pair(tp_degree=2, num_cores=32)
    loaded = list(runtime.loads)
    with pytest.raises(PairError, match=r"nec_comm is already init'd.*restart"):
        pair(tp_degree=8, num_cores=32)
    assert runtime.loads == loaded
    pair(tp_degree=2, num_cores=32)  # exactly the same set


def test_partial_overlap_found_by_the_runtime_itself(pair: Load, runtime: neuron_fake.Runtime) -> None:
    runtime.cores = 1
    with pytest.raises(PairError, match="one tp_degree"):
        pair()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn rope scaling"),
        ({"head_dim": 64}, "heads of 64"),
        ({"rope_parameters": {"rope_theta": 500000.0}, "rope_theta": None}, "written by transformers 5"),
        ({"playground": {"kept_ids": 8192}}, "trimmed vocabulary"),
        ({"hidden_size": None}, "gives no hidden_size"),
        ({"vocab_size": 50000}, "cannot share a tokenizer"),
    ],
)
def test_checkpoints_that_would_load_wrong(
    fault: Callable[..., str], tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    path = tmp_path / "Small" / "config.json"
    values = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    assert said in fault()


def test_missing_checkpoints(fault: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "Small" / "model.safetensors").unlink()
    assert "holds no weights" in fault()
    (tmp_path / "Small" / "config.json").unlink()
    assert "config.json" in fault()
    (tmp_path / "Small").rmdir()
    assert "no model directory" in fault()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"windows": ()}, "(none)"),
        ({"windows": (1, 2)}, "1, 2"),
        ({"windows": (65,)}, "65"),
        ({"dtype": "int8"}, "no precision 'int8'"),
        ({"n_positions": 1}, "1 positions"),
        ({"context_length_estimate": 65}, "prefill of 65"),
    ],
)
def test_settings_that_cannot_be_compiled(fault: Callable[..., str], options: dict[str, Any], said: str) -> None:
    assert said in fault(**options)


def test_a_foreign_folder_is_not_written_over(fault: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "target").mkdir(parents=True)
    (tmp_path / "mine" / "target" / "thesis.txt").touch()
    assert "holds something else" in fault(artifacts=tmp_path / "mine")
    assert (tmp_path / "mine" / "target" / "thesis.txt").exists()


def test_a_broken_installation(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libnrt.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert "libnrt.so.1" in fault()
