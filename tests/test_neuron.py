"""The Neuron backend against a fake that honours the library's contract strictly (`tests/neuron_fake.py`)."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.windows import Fixed
from app.pairs.options import PairOptions

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.backends.neuron import model as neuron  # noqa: E402
from app.backends.neuron.model import NeuronModel, NeuronSequence, load_pair, run_upstream  # noqa: E402
from app.engine.acceptance import ACCEPTORS  # noqa: E402
from app.engine.decode import Limits, decode  # noqa: E402
from app.engine.drafting import ModelDrafter  # noqa: E402
from app.engine.race import race  # noqa: E402
from app.errors import ModelError, PairError, RequestError  # noqa: E402
from app.record.trace import Arm, Round, Sampling, dumps, loads  # noqa: E402
from tests.support import neuron_fake  # noqa: E402

torch.set_num_threads(1)  # rows of 24 numbers: more threads only wait for one another

V = 24
PROMPT = [3, 1, 4, 1, 5]
WINDOWS = (2, 3, 5, 8)
AGREEING: dict[str, Any] = {"seed": 1, "noise": 1.5}  # a draft that often says what the target says
NO_ZERO = {"banned": 0}  # upstream takes token 0 for padding
GREEDY = Sampling()
WARM = Sampling(temperature=1.0, seed=7)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> neuron_fake.Runtime:
    """The fake in the library's place, on a machine that EC2 does not name."""
    monkeypatch.setattr(neuron, "_claimed_cores", None)
    monkeypatch.setattr(neuron, "_product_name", lambda: "")
    monkeypatch.setattr(metadata, "version", lambda name: {"transformers": "4.47.1"}[name])
    return neuron_fake.install(monkeypatch)


@pytest.fixture
def pair(runtime: neuron_fake.Runtime, tmp_path: Path) -> Callable[..., tuple[NeuronModel, NeuronModel]]:
    """Loads a fake pair; `target` and `draft` describe their logits."""

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


Load = Callable[..., tuple[NeuronModel, NeuronModel]]


def expected(model: NeuronModel, context: Sequence[int], rows: int) -> np.ndarray[Any, Any]:
    """The last rows after `context`, from the fake's own function on a clean context."""
    ends = range(len(context) - rows + 1, len(context) + 1)
    return np.stack([neuron_fake.expected_logits(model.module.fake, V, context[:end]) for end in ends])


def calls(model: NeuronModel) -> list[tuple[str, int, int]]:
    """What reached the device since the last look."""
    made = list(model.module.calls)
    model.module.calls.clear()
    return made


# --- the sequence: every row is what a clean context would give ---


def test_prefill_steps_and_windows_reach_the_right_program(pair: Load) -> None:
    target, _ = pair()
    sequence = target.new_sequence()
    np.testing.assert_array_equal(sequence.forward(PROMPT, 1), expected(target, PROMPT, 1))
    assert calls(target) == [("prefill", 0, 5)]
    np.testing.assert_array_equal(sequence.forward([9], 1), expected(target, [*PROMPT, 9], 1))
    assert calls(target) == [("step", 5, 1)]
    window = [2, 6, 5, 3]
    rows = sequence.forward(window, 4)
    np.testing.assert_array_equal(rows, expected(target, [*PROMPT, 9, *window], 4))
    assert calls(target) == [("window", 6, 5)]  # the smallest that holds four
    assert rows.dtype == np.float32
    assert (rows.shape, sequence.length) == ((4, V), 10)


@pytest.mark.parametrize(("tokens", "window"), [(2, 2), (3, 3), (4, 5), (5, 5), (6, 8), (8, 8)])
def test_the_smallest_window_that_holds_the_tokens_is_run(pair: Load, tokens: int, window: int) -> None:
    target, _ = pair()
    sequence = target.new_sequence()
    sequence.forward(PROMPT, 1)
    calls(target)
    sequence.forward([1] * tokens, tokens)
    assert calls(target) == [("window", 5, window)]


def test_a_padded_window_leaves_no_trace(pair: Load) -> None:
    target, _ = pair(windows=(8,))
    sequence = target.new_sequence()
    sequence.forward(PROMPT, 1)
    sequence.forward([7, 8], 2)  # six dummy slots behind it
    context = [*PROMPT, 7, 8]
    for token in (1, 2, 3):
        context.append(token)
        np.testing.assert_array_equal(sequence.forward([token], 1), expected(target, context, 1))


def test_the_draft_catches_up_by_single_steps(pair: Load) -> None:
    """After a fully accepted round it lacks two tokens, and it has no program for a window."""
    _, draft = pair()
    assert draft.windows == ()
    sequence = draft.new_sequence()
    sequence.forward(PROMPT, 1)
    calls(draft)
    np.testing.assert_array_equal(sequence.forward([7, 8], 1), expected(draft, [*PROMPT, 7, 8], 1))
    assert calls(draft) == [("step", 5, 1), ("step", 6, 1)]


def test_a_window_that_does_not_fit_becomes_plain_steps(pair: Load) -> None:
    target, _ = pair(n_positions=16, windows=(5,))
    sequence = target.new_sequence()
    context = list(range(1, 13))
    sequence.forward(context, 1)
    calls(target)
    np.testing.assert_array_equal(sequence.forward([4, 5, 6, 7], 4), expected(target, [*context, 4, 5, 6, 7], 4))
    assert calls(target) == [("step", 12, 1), ("step", 13, 1), ("step", 14, 1), ("step", 15, 1)]
    assert sequence.length == target.n_positions


def test_a_window_at_the_very_end_is_still_one_pass(pair: Load) -> None:
    target, _ = pair(n_positions=16, windows=(4,))
    sequence = target.new_sequence()
    sequence.forward(list(range(1, 13)), 1)
    calls(target)
    sequence.forward([4, 5, 6, 7], 4)
    assert calls(target) == [("window", 12, 4)]


def test_more_tokens_than_the_largest_window_go_in_parts(pair: Load) -> None:
    target, _ = pair(windows=(3,))
    sequence = target.new_sequence()
    sequence.forward(PROMPT, 1)
    calls(target)
    more = [7, 8, 9, 10, 11, 12, 13]
    np.testing.assert_array_equal(sequence.forward(more, 7), expected(target, [*PROMPT, *more], 7))
    assert calls(target) == [("window", 5, 3), ("window", 8, 3), ("step", 11, 1)]


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63])
def test_prompts_below_at_and_beyond_the_prefill_bucket(pair: Load, length: int) -> None:
    target, _ = pair(n_positions=64, context_length_estimate=32)
    prompt = [(7 * i) % V for i in range(length)]
    sequence = target.new_sequence()
    np.testing.assert_array_equal(sequence.forward(prompt, 1), expected(target, prompt, 1))
    np.testing.assert_array_equal(sequence.forward([1], 1), expected(target, [*prompt, 1], 1))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_order_of_passes_and_rollbacks(pair: Load, runtime: neuron_fake.Runtime, data: st.DataObject) -> None:
    """Whatever was cached and forgotten before, a row is that of a clean context."""
    model = pair(n_positions=32, windows=(2, 4))[data.draw(st.integers(0, 1))]
    sequence, context = model.new_sequence(), list[int]()
    for _ in range(data.draw(st.integers(1, 8))):
        room = model.n_positions - len(context)
        if room == 0 or (context and data.draw(st.booleans())):
            del context[data.draw(st.integers(0, len(context) - 1)) :]
            sequence.rollback(len(context))
            continue
        tokens = data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=min(room, 7)))
        rows = data.draw(st.integers(1, len(tokens)))
        context += tokens
        np.testing.assert_array_equal(sequence.forward(tokens, rows), expected(model, context, rows))
    assert sequence.length == len(context)


def test_a_new_prompt_needs_no_reset(pair: Load) -> None:
    target, _ = pair()
    for prompt in ([5, 6, 7, 8, 9, 10, 11], [1, 2], [20, 21, 22, 23]):
        sequence = target.new_sequence()
        np.testing.assert_array_equal(sequence.forward(prompt, 1), expected(target, prompt, 1))
        np.testing.assert_array_equal(sequence.forward([0, 1, 2], 3), expected(target, [*prompt, 0, 1, 2], 3))
        sequence.close()


def test_rows_are_copies(pair: Load) -> None:
    """The library may use its output buffers again; the fake does."""
    target, draft = pair()
    for model in (target, draft):
        sequence = model.new_sequence()
        rows = sequence.forward(PROMPT, 1)
        before = rows.copy()
        sequence.forward([1], 1)
        np.testing.assert_array_equal(rows, before)
        assert rows.flags.c_contiguous


def test_one_sequence_at_a_time(pair: Load) -> None:
    target, _ = pair()
    assert target.max_sequences == 1
    sequence = target.new_sequence()
    with pytest.raises(AssertionError, match="one sequence"):
        target.new_sequence()
    sequence.close()
    with pytest.raises(AssertionError, match="closed"):
        sequence.forward([1], 1)
    target.new_sequence().close()


def test_the_model_says_what_it_is(pair: Load) -> None:
    target, draft = pair(dtype="bf16")
    assert (target.name, target.vocab_size, target.n_positions, target.dtype) == ("Big", V, 64, "bf16")
    assert target.windows == WINDOWS
    assert not target.bit_identical
    assert "2 cores" in target.device
    assert target.memory() >= 2 * target.num_parameters > 2 * draft.num_parameters


@pytest.mark.parametrize(
    "error",
    [
        StopIteration(),
        AssertionError("1th input shape mismatch"),
        KeyError((5, 1)),
        ValueError("context_length (3)"),
        TypeError("bad operand"),
        RuntimeError("NRT_EXEC_HW_ERR"),
    ],
)
@pytest.mark.parametrize("tokens", [PROMPT, [1], [1, 2, 3]])
def test_no_exception_of_the_library_reaches_a_person(
    pair: Load, monkeypatch: pytest.MonkeyPatch, error: Exception, tokens: list[int]
) -> None:
    target, _ = pair()
    sequence = target.new_sequence()
    if tokens is not PROMPT:
        sequence.forward(PROMPT, 1)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(target.module, "forward", fail)
    monkeypatch.setattr(target.module, "speculative_forward", fail)
    length = sequence.length
    with pytest.raises(ModelError, match=f"Big failed on the Neuron device.*{type(error).__name__}"):
        sequence.forward(tokens, len(tokens) if tokens is not PROMPT else 1)
    assert sequence.length == length


def test_token_ids_instead_of_logits_are_noticed(pair: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `on_device_generation` would give."""
    target, _ = pair()
    monkeypatch.setattr(target.module, "forward", lambda *args, **kwargs: torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ModelError, match=r"answered with shape \(1, 1\)"):
        target.new_sequence().forward([1], 1)


# --- loading ---


def test_the_draft_loads_first_and_only_the_target_gets_windows(pair: Load, runtime: neuron_fake.Runtime) -> None:
    target, draft = pair(windows=(5, 2, 2, 3))
    assert runtime.loads == ["Small", "Big"]
    assert target.module.windows == [2, 3, 5]
    assert draft.module.windows == []
    assert runtime.programs_compiled == 2 + 2 + 3  # a prefill and a token program each, and one a window


def test_the_cores_are_named_before_the_import(pair: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    real = importlib.import_module

    def spy(name: str) -> Any:
        seen[name] = os.environ.get("NEURON_RT_NUM_CORES")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", spy)
    pair()
    assert seen["torch_neuronx"] == seen["transformers_neuronx"] == "2"


@pytest.mark.parametrize(("variable", "value"), [("NEURON_RT_VISIBLE_CORES", "2-3"), ("NEURON_RT_NUM_CORES", "2")])
def test_cores_the_person_named_are_kept(
    pair: Load, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    pair()
    assert os.environ[variable] == value


def test_without_a_degree_the_planner_chooses(pair: Load) -> None:
    assert pair(tp_degree=None)[0].module.tp_degree == 2


def test_artefacts_are_kept_and_used_again(pair: Load, runtime: neuron_fake.Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    first = runtime.programs_compiled
    target, _ = pair(artifacts=folder)
    assert runtime.programs_compiled == first
    np.testing.assert_array_equal(target.new_sequence().forward(PROMPT, 1), expected(target, PROMPT, 1))


@pytest.mark.parametrize("change", [{"windows": (2, 4)}, {"dtype": "bf16"}, {"n_positions": 32}])
def test_artefacts_of_other_settings_are_replaced(
    pair: Load, runtime: neuron_fake.Runtime, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    first = runtime.programs_compiled
    pair(artifacts=folder, **change)
    assert runtime.programs_compiled > first
    again = runtime.programs_compiled
    pair(artifacts=folder, **change)
    assert runtime.programs_compiled == again


def test_a_cut_off_save_is_not_taken_for_whole(pair: Load, runtime: neuron_fake.Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    (folder / "target" / neuron.SETTINGS_FILE).unlink()
    (folder / "target" / neuron.UNFINISHED_FILE).touch()
    first = runtime.programs_compiled
    pair(artifacts=folder)
    assert runtime.programs_compiled > first


def test_damaged_artefacts_are_named(pair: Load, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    pair(artifacts=folder)
    for program in (folder / "target").glob("*.neff"):
        program.unlink()
    with pytest.raises(PairError, match="delete that folder"):
        pair(artifacts=folder)


def test_a_mistral_draft_goes_through_the_auto_class(runtime: neuron_fake.Runtime, tmp_path: Path) -> None:
    target = neuron_fake.write_checkpoint(tmp_path / "Big")
    draft = neuron_fake.write_checkpoint(tmp_path / "Small", model_type="mistral")
    _, loaded = load_pair(target, draft, tp_degree=1, n_positions=32, num_cores=2)
    assert isinstance(loaded.module, neuron_fake.MistralForSampling)
    with pytest.raises(PairError, match="cannot score windows"):
        load_pair(draft, target, tp_degree=1, n_positions=32, num_cores=2)


# --- every fault is a sentence, before anything is compiled ---


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


@pytest.mark.parametrize("package", neuron.PACKAGES)
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
    monkeypatch.setattr(neuron, "_devices", list)
    assert "no Neuron device (/dev/neuron*)" in fault(num_cores=None)


def test_a_missing_driver(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron, "_devices", list)
    monkeypatch.setattr(neuron, "_product_name", lambda: "inf2.8xlarge")
    assert "aws-neuronx-dkms" in fault(num_cores=None)


def test_trn2_is_refused(fault: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron, "_product_name", lambda: "trn2.48xlarge")
    assert "does not support trn2.48xlarge" in fault(num_cores=None)


@pytest.mark.parametrize("package", neuron.PACKAGES)
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
    monkeypatch.setattr(neuron, "_devices", lambda: [Path("/dev/neuron0"), Path("/dev/neuron1")])
    monkeypatch.setattr(neuron, "_product_name", lambda: "inf2.48xlarge")
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


# --- the engine's loop on it ---


def arm(
    target: NeuronModel, draft: NeuronModel | None, prompt: Sequence[int], k: int = 5, **options: Any
) -> Generator[Round, None, None]:
    """One arm, over sequences of its own."""
    sampling = options.get("sampling", GREEDY)
    stop_ids = frozenset(options.get("stop_ids", ()))
    limits = Limits(options.get("max_tokens", 24), target.n_positions, stop_ids)
    sequences: list[NeuronSequence] = [target.new_sequence()]
    drafter = None
    try:
        if draft is not None:
            sequences.append(draft.new_sequence())
            drafter = ModelDrafter(
                sequences[1], name=draft.name, vocab_size=draft.vocab_size, sampling=sampling, stop_ids=stop_ids
            )
        acceptor = ACCEPTORS[options.get("acceptor", "rejection")]
        yield from decode(
            sequences[0],
            drafter,
            prompt,
            windows=Fixed(k),
            sampling=sampling,
            acceptor=acceptor,
            limits=limits,
            target_name=target.name,
        )
    finally:
        for sequence in sequences:
            sequence.close()


def text(rounds: Sequence[Round]) -> list[int]:
    return [token for round_ in rounds for token in round_.token_ids]


def both(
    target: NeuronModel, draft: NeuronModel, prompt: Sequence[int] = PROMPT, **options: Any
) -> tuple[list[Round], list[Round]]:
    """Both arms, one after the other as the page runs them on Neuron."""
    arms: dict[Arm, Generator[Round, None, None]] = {
        "target": arm(target, None, prompt, **options),
        "speculative": arm(target, draft, prompt, **options),
    }
    rounds = list(race(arms, one_at_a_time=True))
    return [r for r in rounds if r.arm == "target"], [r for r in rounds if r.arm == "speculative"]


def greedy_text(model: NeuronModel, prompt: Sequence[int], count: int, vocab_size: int = V) -> list[int]:
    context = list(prompt)
    for _ in range(count):
        context.append(int(neuron_fake.expected_logits(model.module.fake, vocab_size, context).argmax()))
    return context[len(prompt) :]


@pytest.mark.parametrize("k", WINDOWS)
def test_both_arms_print_the_targets_greedy_text(pair: Load, k: int) -> None:
    target, draft = pair()
    alone, speculative = both(target, draft, k=k)
    assert text(alone) == text(speculative) == greedy_text(target, PROMPT, 24)
    verdicts = {token.state for round_ in speculative for token in round_.drafted}
    assert {"accepted", "rejected"} <= verdicts  # the test saw both


def test_a_draft_that_always_agrees(pair: Load) -> None:
    """Every round is fully accepted: the catch-up of two tokens, every time."""
    target, draft = pair(draft={})
    alone, speculative = both(target, draft, k=5, max_tokens=26)
    assert text(alone) == text(speculative)
    assert all(len(r.accepted) == len(r.drafted) for r in speculative)
    assert len(speculative) == 1 + 5


def test_a_draft_that_never_agrees(pair: Load) -> None:
    target, draft = pair(target={"table": [0.0] * (V - 1) + [9.0]}, draft={"table": [9.0] + [0.0] * (V - 1)})
    alone, speculative = both(target, draft)
    assert text(alone) == text(speculative) == [V - 1] * 24
    assert sum(len(r.accepted) for r in speculative) == 0


def test_the_coupled_acceptor_prints_one_text_at_any_temperature(pair: Load) -> None:
    target, draft = pair()
    alone, speculative = both(target, draft, sampling=WARM, acceptor="coupled")
    assert text(alone) == text(speculative)
    assert text(alone) != greedy_text(target, PROMPT, 24)


@pytest.mark.parametrize("prompt", [[1], [0], PROMPT, [0] * 9, list(range(V)) * 2])
def test_prompts_follow_one_another(pair: Load, prompt: list[int]) -> None:
    target, draft = pair(n_positions=96)
    for each in (PROMPT, prompt, PROMPT):
        alone, speculative = both(target, draft, each)
        assert text(alone) == text(speculative) == greedy_text(target, each, 24)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_the_context_is_filled_to_its_last_position(pair: Load, k: int) -> None:
    target, draft = pair(n_positions=20, windows=(2, 3, 5, 8))
    for length in range(8, 20):
        prompt = [(5 * i) % V for i in range(length)]
        alone, speculative = both(target, draft, prompt, k=k, max_tokens=99)
        assert text(alone) == text(speculative) == greedy_text(target, prompt, 20 - length)
        assert alone[-1].finish_reason == speculative[-1].finish_reason == "context"


def test_several_stop_ids(pair: Load) -> None:
    target, draft = pair()
    greedy = greedy_text(target, PROMPT, 24)
    stop_ids = (greedy[9], greedy[13])
    end = next(i for i, token in enumerate(greedy) if token in stop_ids)
    alone, speculative = both(target, draft, stop_ids=stop_ids)
    assert text(alone) == text(speculative) == greedy[: end + 1]
    assert alone[-1].finish_reason == speculative[-1].finish_reason == "stop"


@pytest.mark.parametrize("position", range(1, 8))
def test_a_stop_id_anywhere_in_a_window(pair: Load, position: int) -> None:
    target, draft = pair(draft={})  # all accepted: the stop token falls on every place of a window of five
    greedy = greedy_text(target, PROMPT, 24)
    _, speculative = both(target, draft, stop_ids=(greedy[position],))
    assert text(speculative) == greedy[: greedy.index(greedy[position]) + 1]


def test_a_cancelled_run_leaves_nothing_behind(pair: Load) -> None:
    target, draft = pair()
    running = arm(target, draft, PROMPT)
    next(running), next(running)
    running.close()
    alone, speculative = both(target, draft)
    assert text(alone) == text(speculative) == greedy_text(target, PROMPT, 24)


# --- a row each of upstream's flaws: the fake has them, our loop has not ---


def total_variation(samples: Sequence[tuple[int, ...]], probs: dict[tuple[int, ...], float]) -> float:
    counts = {key: sum(sample == key for sample in samples) for key in probs}
    return sum(abs(counts[key] / len(samples) - p) for key, p in probs.items()) / 2


def test_flaw_argmax_drafts_against_a_softmax(pair: Load) -> None:
    """p = q = [.6, .4]: upstream's drafts are never 1, and always accepted."""
    logits = [math.log(0.6), math.log(0.4)]
    target, draft = pair({"table": logits}, {"table": logits}, vocab_size=2, n_positions=8, windows=(3,))
    probs: dict[tuple[int, ...], float] = {(a, b): (0.6, 0.4)[a] * (0.6, 0.4)[b] for a in (0, 1) for b in (0, 1)}
    ours = [
        tuple(text(list(arm(target, draft, [1, 1], k=3, max_tokens=3, sampling=Sampling(1.0, seed=seed))))[1:3])
        for seed in range(600)
    ]
    assert total_variation(ours, probs) < 0.08  # noise; always 0, 0 would be 0.64

    library = neuron_fake.SpeculativeGenerator(draft.module, target.module, 3)
    torch.manual_seed(0)
    rows = []

    def note(*args: Any) -> Any:
        rows.append(neuron_fake.DefaultTokenAcceptor()(*args))
        return rows[-1]

    library.acceptor = note
    for _ in range(100):
        library.sample(torch.tensor([[1, 1]]), 6)
    assert len(rows) >= 100
    drafted = {tuple(row[0, :2].tolist()) for row in rows}
    assert drafted == {(0, 0)}


def test_flaw_the_first_token_is_greedy(pair: Load) -> None:
    target, draft = pair({"table": [0.0] * V}, {"table": [0.0] * V})
    first = {text(list(arm(target, draft, PROMPT, max_tokens=1, sampling=Sampling(1.0, seed=s))))[0] for s in range(60)}
    assert len(first) > 12
    upstream = {
        next(run_upstream(target, draft, PROMPT, max_tokens=1, k=3, stop_ids=frozenset(), seed=s)).token_ids
        for s in range(5)
    }
    assert upstream == {(0,)}


def test_flaw_the_knobs_are_unused(pair: Load) -> None:
    """Temperature, top_k and top_p change our text; upstream has no place for them."""
    target, draft = pair()
    texts = {
        tuple(text(list(arm(target, draft, PROMPT, sampling=sampling))))
        for sampling in (
            GREEDY,
            WARM,
            Sampling(5.0, seed=7),
            Sampling(5.0, top_k=2, seed=7),
            Sampling(5.0, 0.3, seed=7),
        )
    }
    assert len(texts) == 5


def test_flaw_token_0_is_padding(pair: Load) -> None:
    """A target that says 0 every third time."""
    favourite = {"table": [5.0] + [4.8] + [0.0] * (V - 2)}
    target, draft = pair(favourite, favourite)
    alone, speculative = both(target, draft, sampling=Sampling(1.0, seed=3), acceptor="coupled", max_tokens=40)
    assert text(alone) == text(speculative)
    assert {0, 1} <= set(text(speculative))
    rounds = run_upstream(target, draft, PROMPT, max_tokens=40, k=3, stop_ids=frozenset())
    assert next(rounds).token_ids == (0,)
    with pytest.raises(ModelError, match="emitted token 0"):
        list(rounds)


@pytest.mark.parametrize("row", [[5, 0, 7], [0, 6, 7], [5, 6, 0], [0, 0, 0], [0, 7, 0]])
def test_a_token_0_anywhere_in_upstreams_window_is_noticed(pair: Load, row: list[int]) -> None:
    target, draft = pair(draft={"table": [0.0] * V})
    drafted: list[list[int]] = []

    def acceptor(draft_ids: Any, *_: Any) -> Any:
        drafted.append(draft_ids[0].tolist())
        draft_ids[0, :] = torch.tensor(row[:2])  # as if these had been drafted
        return torch.tensor([row])

    rounds = list[Round]()
    with pytest.raises(ModelError, match="emitted token 0"):
        rounds.extend(run_upstream(target, draft, PROMPT, max_tokens=9, k=3, stop_ids=frozenset(), acceptor=acceptor))
    assert len(drafted) == 1


def test_flaw_an_all_zero_window_loops_for_ever(pair: Load) -> None:
    zeros = {"table": [50.0] + [0.0] * (V - 1)}
    target, draft = pair(zeros, zeros)
    alone, speculative = both(target, draft)
    assert text(alone) == text(speculative) == [0] * 24
    with pytest.raises(ModelError, match="emitted token 0"):
        list(run_upstream(target, draft, PROMPT, max_tokens=20, k=3, stop_ids=frozenset()))


def test_flaw_the_end_of_the_context(pair: Load) -> None:
    target, draft = pair(draft={}, n_positions=16, windows=(5,))
    library = neuron_fake.SpeculativeGenerator(draft.module, target.module, 5)
    library.acceptor = lambda drafts, *_: torch.nn.functional.pad(drafts, (0, 1), value=1).clamp(min=1)
    with pytest.raises(StopIteration):
        library.sample(torch.tensor([PROMPT]), 16)
    alone, speculative = both(target, draft, max_tokens=99)
    assert text(alone) == text(speculative) == greedy_text(target, PROMPT, 11)
    guarded = list(run_upstream(target, draft, [1] * 11, max_tokens=99, k=5, stop_ids=frozenset()))
    assert guarded[-1].finish_reason == "context"
    assert len(text(guarded)) == 1  # 16 - 5 + 1 positions are all it may use


def test_flaw_a_list_of_stop_ids(pair: Load) -> None:
    target, draft = pair()
    library = neuron_fake.SpeculativeGenerator(draft.module, target.module, 3)
    with pytest.raises(RuntimeError):
        library.sample(torch.tensor([PROMPT]), 30, eos_token_id=[3, 4])
    greedy = greedy_text(target, PROMPT, 24)
    alone, speculative = both(target, draft, stop_ids=(greedy[4], greedy[6]))
    assert text(alone) == text(speculative)
    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=20, k=3, stop_ids=frozenset(range(1, V))))
    assert rounds[-1].finish_reason == "stop"


def test_flaw_k_of_one(pair: Load) -> None:
    target, draft = pair()
    with pytest.raises((RuntimeError, ValueError), match="non-empty"):
        neuron_fake.SpeculativeGenerator(draft.module, target.module, 1).sample(torch.tensor([PROMPT]), 30)
    assert text(list(arm(target, None, PROMPT, k=1))) == greedy_text(target, PROMPT, 24)
    with pytest.raises(RequestError, match="k = 1 was not compiled; choose one of 2, 3, 5, 8"):
        next(run_upstream(target, draft, PROMPT, max_tokens=9, k=1, stop_ids=frozenset()))


def test_flaw_a_long_prompt(pair: Load) -> None:
    target, draft = pair()
    with pytest.raises(RuntimeError):
        neuron_fake.SpeculativeGenerator(draft.module, target.module, 3).sample(torch.tensor([PROMPT * 4]), 10)
    with pytest.raises(RequestError, match="62 tokens long and upstream's loop takes 61"):
        next(run_upstream(target, draft, [1] * 62, max_tokens=9, k=3, stop_ids=frozenset()))
    prompt = [1] * 62
    alone, speculative = both(target, draft, prompt, k=3)
    assert text(alone) == text(speculative) == greedy_text(target, prompt, 2)


def test_flaw_a_baseline_with_another_warp(pair: Load) -> None:
    """The sample notebook compares with top_k = 50 sampling; here one request rules both arms."""
    target, draft = pair()
    for sampling in (Sampling(1.5, 0.7, 5, 11), Sampling(0.5, 1.0, 3, 11)):
        alone, speculative = both(target, draft, sampling=sampling, acceptor="coupled")
        assert text(alone) == text(speculative)
        finals = [r.final for r in (*alone, *speculative) if r.final is not None]
        assert all(sum(a.warped_prob > 0 for a in final.alternatives) <= sampling.top_k for final in finals)


# --- upstream's loop as the reference arm ---


def test_upstream_emits_what_its_rounds_say(pair: Load) -> None:
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)
    recorded: list[list[int]] = []

    class Spy(neuron_fake.DefaultTokenAcceptor):
        def __call__(self, *args: Any) -> Any:
            row = super().__call__(*args)
            recorded.append(row[0].tolist())
            return row

    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=14, k=5, stop_ids=frozenset(), seed=5, acceptor=Spy()))
    assert [r.index for r in rounds] == list(range(len(rounds)))
    assert rounds[0].drafted == ()
    assert len(text(rounds)) == 14
    assert rounds[-1].finish_reason == "length"
    for round_, row in zip(rounds[1:-1], recorded, strict=False):
        assert list(round_.token_ids) == row[: len(round_.token_ids)]
        assert row[len(round_.token_ids) :] == [0] * (5 - len(round_.token_ids))
    states = [token.state for r in rounds for token in r.drafted]
    assert {"accepted", "rejected"} <= set(states)
    for round_ in rounds:
        assert loads(dumps(round_)) == round_
        assert min(round_.draft_seconds, round_.verify_seconds, round_.host_seconds) >= 0


def test_upstream_probabilities_are_those_of_the_scores(pair: Load) -> None:
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)
    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=10, k=3, stop_ids=frozenset(), seed=2))
    context = [*PROMPT, *rounds[0].token_ids]
    for round_ in rounds[1:]:
        for i, token in enumerate(round_.drafted):
            before = [*context, *(t.id for t in round_.drafted[:i])]
            for model, value in ((target, token.p), (draft, token.q)):
                row = neuron_fake.expected_logits(model.module.fake, V, before).astype(np.float64)
                assert value == pytest.approx(float(np.exp(row[token.id]) / np.exp(row).sum()), rel=1e-5)
        context += round_.token_ids


def test_upstream_is_seeded_and_leaves_the_global_generator_alone(pair: Load) -> None:
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()

    def run(seed: int) -> list[int]:
        return text(list(run_upstream(target, draft, PROMPT, max_tokens=20, k=3, stop_ids=frozenset(), seed=seed)))

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(4)}) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("max_tokens", range(1, 8))
def test_upstream_ends_at_max_tokens(pair: Load, max_tokens: int) -> None:
    target, draft = pair(NO_ZERO, NO_ZERO)
    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=max_tokens, k=5, stop_ids=frozenset()))
    assert len(text(rounds)) == max_tokens
    assert rounds[-1].finish_reason == "length"
    assert all(r.finish_reason is None for r in rounds[:-1])


def test_upstream_takes_an_acceptor_that_does_not_pad(pair: Load) -> None:
    """A deterministic answer; its short rows would end the stock loop with a raw error."""
    target, draft = pair(NO_ZERO, AGREEING | NO_ZERO)

    class Greedy(neuron_fake.TokenAcceptor):
        def __call__(self, draft_ids: Any, draft_scores: Any, target_scores: Any) -> Any:
            best = target_scores[0].argmax(-1)
            agreed = int((draft_ids[0] == best[:-1]).int().cumprod(0).sum())
            return best[: agreed + 1]

    rounds = list(run_upstream(target, draft, PROMPT, max_tokens=20, k=5, stop_ids=frozenset(), acceptor=Greedy()))
    assert text(rounds) == greedy_text(target, PROMPT, 20)


def test_upstreams_own_errors_become_sentences(pair: Load) -> None:
    target, draft = pair()

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("in my acceptor")

    rounds = run_upstream(target, draft, PROMPT, max_tokens=20, k=5, stop_ids=frozenset(), acceptor=broken)
    assert len(next(rounds).token_ids) == 1
    with pytest.raises(ModelError, match="ZeroDivisionError: in my acceptor"):
        next(rounds)


def test_upstream_refuses_two_vocabularies(runtime: neuron_fake.Runtime, tmp_path: Path) -> None:
    target_dir = neuron_fake.write_checkpoint(tmp_path / "Big", vocab_size=24)
    draft_dir = neuron_fake.write_checkpoint(tmp_path / "Small", vocab_size=32)
    target, draft = load_pair(target_dir, draft_dir, tp_degree=1, n_positions=32, num_cores=2)
    with pytest.raises(RequestError, match="equal vocabularies"):
        next(run_upstream(target, draft, PROMPT, max_tokens=9, k=2, stop_ids=frozenset()))


def test_a_neuron_pair_runs_from_its_options_to_the_last_event(
    runtime: neuron_fake.Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command line does: options, pair, session, both arms one after the other; then upstream's loop."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from app.engine.session import Session
    from app.pairs import registry as pairs
    from app.record import trace

    monkeypatch.setattr(neuron, "_devices", lambda: [Path("/dev/neuron0")])
    byte_level = Tokenizer(models.BPE({chr(ord("a") + i): i for i in range(V)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    folders = {}
    for role, fake in (("target", NO_ZERO), ("draft", {**AGREEING, **NO_ZERO})):
        folders[role] = neuron_fake.write_checkpoint(tmp_path / role, fake=fake, vocab_size=V, eos_token_id=[V - 1])
        byte_level.save(str(folders[role] / "tokenizer.json"))
    options = PairOptions("neuron", folders["target"], folders["draft"], n_positions=64, windows=(2, 4))
    with pytest.raises(PairError, match="--target DIR and --draft DIR"):
        pairs.load(PairOptions("neuron"))
    ours = Session(pairs.load(options))
    assert (ours.backend, ours.windows, ours.bit_identical) == ("neuron", (2, 4), False)

    request = trace.Request(prompt="abcabc", chat_template=False, max_tokens=12, k=4)
    for upstream in (False, True):
        events = list(ours.run(request, upstream=upstream))
        assert isinstance(events[-1], trace.RunFinished)
        assert events[-1].reason in ("stop", "length"), events[-1].message
        assert trace.read(trace.write(events)) == events
        arms = [event.arm for event in events if isinstance(event, Round)]
        assert arms == sorted(arms, reverse=True)
        assert set(arms) == {"target", "speculative"}
    with pytest.raises(RequestError, match="k = 3 was not compiled"):
        ours.run(trace.Request(prompt="abc", chat_template=False, k=3))
