"""Every fault that can be known is a sentence, before anything is imported or compiled."""

from __future__ import annotations

import importlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.backends.neuron import machine, packages  # noqa: E402
from app.backends.neuron.loading import load_pair  # noqa: E402
from app.errors import PairError  # noqa: E402
from tests.support import neuron_device  # noqa: E402
from tests.support.neuron_device import Runtime  # noqa: E402
from tests.support.neuron_pairs import (  # noqa: E402
    ON_NXD_INFERENCE,
    ON_TRANSFORMERS_NEURONX,
    WINDOWS,
    Load,
)


@pytest.fixture
def fault(runtime: Runtime, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Loads a pair that cannot work; returns the sentence, having checked that nothing was imported or compiled."""
    neuron_device.write_checkpoint(tmp_path / "Big")
    neuron_device.write_checkpoint(tmp_path / "Small", num_hidden_layers=1)

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


@pytest.mark.parametrize("which", [0, 1])
def test_the_placeholder_packages_are_recognised(
    fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str, which: int
) -> None:
    package = packages.BY_NAME[library].packages[which]
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
    monkeypatch.setattr(machine, "product_name", lambda: "inf2.8xlarge")
    assert "aws-neuronx-dkms" in fault(num_cores=None)


@ON_TRANSFORMERS_NEURONX
def test_trn2_is_refused(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "product_name", lambda: "trn2.48xlarge")
    monkeypatch.setattr(machine, "_devices", lambda: [Path(f"/dev/neuron{i}") for i in range(16)])
    message = fault(num_cores=None)
    assert "transformers-neuronx does not support trn2.48xlarge" in message
    assert "--neuron-library nxd-inference" in message


@pytest.mark.parametrize(
    ("name", "said"), [("inf1.6xlarge", "Inferentia1 runs neither"), ("trn3.48xlarge", "--device neuron")]
)
def test_other_generations_are_refused_with_a_way_out(
    fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(machine, "product_name", lambda: name)
    assert said in fault(num_cores=None)


def test_missing_packages(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    chosen = packages.BY_NAME[library]
    monkeypatch.delitem(sys.modules, "torch_neuronx")
    message = fault()
    assert "torch-neuronx is not installed here" in message
    assert chosen.requirements in message
    monkeypatch.delitem(sys.modules, chosen.package)
    message = fault()
    assert "Neither transformers-neuronx nor neuronx-distributed-inference is installed here" in message
    assert "ls /opt | grep venv" in message
    message = fault(library=library)
    assert message.startswith(f"{chosen.package.replace('_', '-')} is not installed here")
    assert chosen.requirements in message
    assert "no Neuron library 'vllm'; choose one of transformers-neuronx, nxd-inference" in fault(library="vllm")


def test_the_other_library_is_not_taken_for_the_one_asked_for(fault: Callable[..., str], library: str) -> None:
    other = next(name for name in packages.BY_NAME if name != library)
    assert packages.BY_NAME[other].package.replace("_", "-") in fault(library=other)


@pytest.mark.parametrize("version", ["4.48.0", "4.48.0.dev0", "5.2.1", "4.43.2", "4.36"])
def test_wrong_versions_of_transformers(
    fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert f"transformers {version} is installed" in fault()


@pytest.mark.parametrize(
    ("library", "version"),
    [("transformers-neuronx", "4.43.3"), ("transformers-neuronx", "4.47.1"), ("nxd-inference", "4.57.1")],
    indirect=["library"],
)
def test_right_versions_of_transformers(pair: Load, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert pair()[0].windows == WINDOWS


def test_too_few_cores(fault: Callable[..., str]) -> None:
    assert "tp_degree 8 needs 8 NeuronCores" in fault(tp_degree=8)


def test_a_degree_the_topology_forbids(fault: Callable[..., str]) -> None:
    assert "does not allow tp_degree 3" in fault(tp_degree=3, num_cores=32)


def test_some_devices_of_a_machine(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_devices", lambda: [Path("/dev/neuron0"), Path("/dev/neuron1")])
    monkeypatch.setattr(machine, "product_name", lambda: "inf2.48xlarge")
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


def test_partial_overlap_with_a_pair_of_this_process(pair: Load, runtime: Runtime) -> None:
    pair(tp_degree=2, num_cores=32)
    loaded = list(runtime.loads)
    with pytest.raises(PairError, match=r"nec_comm is already init'd.*restart"):
        pair(tp_degree=8, num_cores=32)
    assert runtime.loads == loaded
    pair(tp_degree=2, num_cores=32)  # exactly the same set


def test_partial_overlap_found_by_the_runtime_itself(pair: Load, runtime: Runtime) -> None:
    runtime.cores = 1
    with pytest.raises(PairError, match="one tp_degree"):
        pair()


def change(directory: Path, **config: Any) -> None:
    """Other values in its config.json, None to leave one out."""
    path = directory / "config.json"
    values = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.mark.parametrize("which", ["Big", "Small"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn rope scaling"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "linear rope scaling"),
        ({"partial_rotary_factor": 0.5}, "a part of its heads"),
        ({"rope_parameters": {"rope_theta": 500000.0}, "rope_theta": None}, "written by transformers 5"),
        ({"playground": {"kept_ids": 8192}}, "trimmed vocabulary"),
        ({"hidden_size": None}, "gives no hidden_size"),
        ({"num_hidden_layers": 0}, "gives 0 for num_hidden_layers"),
        ({"num_key_value_heads": 3}, "3 key and value heads, which do not divide 4"),
        ({"hidden_size": 66}, "a width of 66, which 4 heads do not divide"),
        ({"vocab_size": 50000}, "cannot share a tokenizer"),
        ({"model_type": "qwen3"}, "describes a qwen3 model"),
        ({"model_type": "gpt2"}, "describes a gpt2 model"),
        ({"attention_bias": True}, "biases in its attention"),
        ({"mlp_bias": True}, "biases in its MLP"),
        ({"sliding_window": 4096}, "a sliding window"),
        ({"hidden_act": "gelu"}, "the activation gelu"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights"),
    ],
)
def test_checkpoints_that_would_load_wrong(
    fault: Callable[..., str], tmp_path: Path, which: str, config: dict[str, Any], said: str
) -> None:
    change(tmp_path / which, **config)
    assert said in fault()


@ON_TRANSFORMERS_NEURONX
def test_heads_of_a_size_of_their_own(fault: Callable[..., str], tmp_path: Path) -> None:
    change(tmp_path / "Small", head_dim=64)
    assert "heads of 64 where transformers-neuronx takes 16 for granted" in fault()


@ON_TRANSFORMERS_NEURONX
def test_a_target_whose_windows_cannot_be_scored(fault: Callable[..., str], tmp_path: Path) -> None:
    change(tmp_path / "Big", model_type="mistral")
    assert "cannot score windows with Big (mistral)" in fault()


@ON_NXD_INFERENCE
@pytest.mark.parametrize("which", ["Big", "Small"])
def test_nxd_inference_is_for_llamas(fault: Callable[..., str], tmp_path: Path, which: str) -> None:
    change(tmp_path / which, model_type="mistral")
    assert f"{which} is a mistral" in fault()


# --- weights: the index, the shards, their headers ---


@pytest.mark.parametrize("which", ["Big", "Small"])
def test_a_missing_shard(fault: Callable[..., str], tmp_path: Path, which: str) -> None:
    neuron_device.write_weights(tmp_path / which, shards=3)
    (tmp_path / which / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in fault()


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_shard_that_was_cut_off(fault: Callable[..., str], tmp_path: Path, kept: int) -> None:
    neuron_device.write_weights(tmp_path / "Big", shards=2)
    shard = tmp_path / "Big" / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    assert "model-00002-of-00002.safetensors is damaged or cut off" in fault()


def test_an_index_that_promises_too_much(fault: Callable[..., str], tmp_path: Path) -> None:
    neuron_device.write_weights(tmp_path / "Big", shards=2)
    index = tmp_path / "Big" / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    names["model.norm.weight"] = next(file for file in names.values() if file != names["model.norm.weight"])
    index.write_text(json.dumps({"weight_map": names}))
    assert "lacks model.norm.weight, which model.safetensors.index.json says it holds" in fault()
    index.write_text("{}")
    assert "lists no weights" in fault()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__layers__1__mlp__up_proj__weight": None}, "has no tensor model.layers.1.mlp.up_proj.weight"),
        ({"lm_head__weight": None}, "has no tensor lm_head.weight"),
        ({"model__norm__weight": np.zeros(65, np.float16)}, "has the shape [65] where config.json says [64]"),
        ({"model__norm__weight": np.zeros(64, np.int8)}, "stores model.norm.weight as I8"),
        (
            {"model__layers__0__self_attn__q_proj__bias": np.zeros(64, np.float16)},
            "a tensor model.layers.0.self_attn.q_proj.bias, which no plain Llama has",
        ),
    ],
)
def test_tensors_that_do_not_fit(fault: Callable[..., str], tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    neuron_device.write_weights(tmp_path / "Big", **changes)
    assert said in fault()


def test_pickled_weights_are_looked_at_too(fault: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "Big"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"half a zip archive")
    assert "pytorch_model.bin is damaged or cut off" in fault()
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "a.bin"}}))
    assert "a.bin is missing" in fault()
    with zipfile.ZipFile(folder / "a.bin", "w") as archive:
        archive.writestr("data.pkl", b"")
    assert "has no tensor model.embed_tokens.weight" in fault()


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
