"""Loading a pair on Neuron: order, cores, artefacts."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.backends.neuron import artifacts, machine  # noqa: E402
from app.backends.neuron.loading import load_pair  # noqa: E402
from app.backends.neuron.packages import BY_NAME  # noqa: E402
from app.errors import PairError  # noqa: E402
from tests.support import neuron_device, neuron_fake  # noqa: E402
from tests.support.neuron_device import Runtime  # noqa: E402
from tests.support.neuron_pairs import (  # noqa: E402
    ON_NXD_INFERENCE,
    ON_TRANSFORMERS_NEURONX,
    PROMPT,
    Load,
    expected,
)


@ON_TRANSFORMERS_NEURONX
def test_the_draft_loads_first_and_only_the_target_gets_windows(pair: Load, runtime: Runtime) -> None:
    target, draft = pair(windows=(5, 2, 2, 3))
    assert runtime.loads == ["Small", "Big"]
    assert target.module.windows == [2, 3, 5]
    assert draft.module.windows == []
    assert runtime.programs_compiled == 2 + 2 + 3  # a prefill and a token program each, and one a window


@ON_NXD_INFERENCE
def test_nxd_inference_compiles_the_largest_window_beside_a_step(pair: Load, runtime: Runtime) -> None:
    target, draft = pair(windows=(5, 2, 2, 3))
    assert runtime.loads == ["Small", "Big"]
    assert target.windows == (2, 3, 5)
    assert (target.module.neuron_config.speculation_length, draft.module.neuron_config.speculation_length) == (5, 0)
    tags = [program.tag for program in target.module.models]
    assert tags == ["context_encoding_model", "token_generation_model", "speculation_model"]
    assert runtime.programs_compiled == 2 + 3


@ON_NXD_INFERENCE
def test_each_compilation_has_a_workplace_of_its_own(
    pair: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair()  # the fake wants it empty, for each of the two
    assert "BASE_COMPILE_WORK_DIR" not in os.environ
    monkeypatch.setenv("BASE_COMPILE_WORK_DIR", str(tmp_path / "mine"))
    with pytest.raises(PairError, match="another model's layout"):
        pair()
    assert (tmp_path / "mine" / "wrapped_neff.hlo").exists()


@ON_NXD_INFERENCE
def test_nxd_inference_runs_on_trainium2(pair: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "product_name", lambda: "trn2.48xlarge")
    monkeypatch.setattr(machine, "_devices", lambda: [Path(f"/dev/neuron{i}") for i in range(16)])
    target, _ = pair(tp_degree=4, num_cores=None)
    assert (target.device, target.module.tp_degree) == ("Neuron, 4 cores, nxd-inference", 4)


def test_the_first_library_that_is_installed_is_taken(pair: Load, library: str) -> None:
    assert library in pair()[0].device


def test_a_precision_may_be_written_in_capitals(pair: Load) -> None:
    assert pair(dtype="BF16")[0].dtype == "bf16"


def test_the_cores_are_named_before_the_import(pair: Load, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    seen = {}
    real = importlib.import_module

    def spy(name: str) -> Any:
        seen[name] = os.environ.get("NEURON_RT_NUM_CORES")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", spy)
    pair()
    assert seen["torch_neuronx"] == seen[BY_NAME[library].package] == "2"


@pytest.mark.parametrize(("variable", "value"), [("NEURON_RT_VISIBLE_CORES", "2-3"), ("NEURON_RT_NUM_CORES", "2")])
def test_cores_the_person_named_are_kept(
    pair: Load, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    pair()
    assert os.environ[variable] == value


def test_the_process_is_tagged_for_neuron_monitor(pair: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    pair()
    assert os.environ["NEURON_PROCESS_TAG"].endswith(f"-{os.getpid()}")
    monkeypatch.setenv("NEURON_PROCESS_TAG", "mine")
    pair()
    assert os.environ["NEURON_PROCESS_TAG"] == "mine"


def test_without_a_degree_the_planner_chooses(pair: Load) -> None:
    assert pair(tp_degree=None)[0].module.tp_degree == 2


def test_artefacts_are_kept_and_used_again(pair: Load, runtime: Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    first = runtime.programs_compiled
    target, _ = pair(artifacts=folder)
    assert runtime.programs_compiled == first
    np.testing.assert_array_equal(target.new_sequence().forward(PROMPT, 1), expected(target, PROMPT, 1))


@pytest.mark.parametrize("change", [{"windows": (2, 4)}, {"dtype": "bf16"}, {"n_positions": 32}])
def test_artefacts_of_other_settings_are_replaced(
    pair: Load, runtime: Runtime, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    first = runtime.programs_compiled
    pair(artifacts=folder, **change)
    assert runtime.programs_compiled > first
    again = runtime.programs_compiled
    pair(artifacts=folder, **change)
    assert runtime.programs_compiled == again


def test_a_cut_off_save_is_not_taken_for_whole(pair: Load, runtime: Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    (folder / "target" / artifacts.SETTINGS_FILE).unlink()
    (folder / "target" / artifacts.UNFINISHED_FILE).touch()
    first = runtime.programs_compiled
    pair(artifacts=folder)
    assert runtime.programs_compiled > first


def test_damaged_artefacts_are_named(pair: Load, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    for program in [*(folder / "target").glob("*.neff"), *(folder / "target").glob("*.pt")]:
        program.unlink()
    with pytest.raises(PairError, match="delete that folder"):
        pair(artifacts=folder)


@ON_TRANSFORMERS_NEURONX
def test_a_mistral_draft_goes_through_the_auto_class(runtime: Runtime, tmp_path: Path) -> None:
    target = neuron_device.write_checkpoint(tmp_path / "Big")
    draft = neuron_device.write_checkpoint(tmp_path / "Small", model_type="mistral")
    _, loaded = load_pair(target, draft, tp_degree=1, n_positions=32, num_cores=2)
    assert isinstance(loaded.module, neuron_fake.MistralForSampling)
    with pytest.raises(PairError, match="cannot score windows"):
        load_pair(draft, target, tp_degree=1, n_positions=32, num_cores=2)
