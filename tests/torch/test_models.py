"""Placement, programs of fixed widths, caches; and faults as sentences."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from app.__main__ import main
from app.backends.checkpoints.config import read_config
from app.engine.pair import Pair
from app.engine.restricted import restricted
from app.engine.session import Session
from app.errors import ModelError, PairError
from app.record.trace import Request, Sampling

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
from app.backends.torch import devices, llama, model, placement, precision  # noqa: E402
from tests.support.torch_models import CPU, F32, IDS, draft_of, model_of  # noqa: E402

pytestmark = pytest.mark.slow


def test_layers_are_spread_over_devices_by_room(tiny: Path) -> None:
    config = read_config(tiny)
    ends = 4 * config.vocab_size * config.hidden_size
    layer = (4 * config.num_parameters - 2 * ends) // config.num_layers
    assert placement.spread(config, F32, {CPU: 2**40}) == [CPU, CPU]
    one, two = torch.device("cuda", 0), torch.device("cuda", 1)
    assert placement.spread(config, F32, {one: ends + layer, two: ends + layer, CPU: 2**40}) == [one, two]
    assert placement.spread(config, F32, {one: ends + layer - 1, two: ends + layer, CPU: 2**40}) == [two, CPU]


@pytest.mark.parametrize("widths", [(), (2, 4, 8, 16)])
def test_a_spread_model_computes_the_same(sighted: Path, widths: tuple[int, ...]) -> None:
    """Two stages, as on two devices; there is one here."""
    whole, spread = (draft_of(sighted) for _ in range(2))
    (stage,) = whole.network.stages
    first = llama.Stage(CPU, stage.layers[:1], stage.frequencies, embeddings=stage.embeddings, fusion=stage.fusion)
    second = llama.Stage(CPU, stage.layers[1:], stage.frequencies, norm=stage.norm, head=stage.head)
    spread.network = replace(whole.network, stages=(first, second))
    whole.widths = spread.widths = widths
    one, two = whole.new_sequence((3,)), spread.new_sequence((3,))
    for ids in ([1, 2, 3, 4, 5], [6], [7, 8, 9]):
        before = np.full((len(ids), 128), 0.1 * ids[0], np.float32)
        assert np.array_equal(one.forward(ids, 1, before), two.forward(ids, 1, before))
        assert torch.equal(one.states, two.states)
    two.rollback(4)
    assert two.length == 4


def test_devices_and_precisions_that_are_not_there_are_sentences() -> None:
    for name, fault in (("abacus", "cannot use the device 'abacus'"), ("meta", "runs no models")):
        with pytest.raises(PairError, match=fault) as caught:
            devices.choose_device(name)
        assert str(caught.value).endswith(".")
    if not torch.cuda.is_available():
        with pytest.raises(PairError, match=r"cannot use the device 'cuda'.*choose cpu"):
            devices.choose_device("cuda")
    with pytest.raises(PairError, match="no precision 'int8'; choose one of bf16, f16, f32, int4"):
        precision.choose("int8", CPU)
    assert [precision.choose(None, each).name for each in (CPU, torch.device("cuda"))] == ["f32", "bf16"]


def test_a_kind_of_device_that_was_never_tried_is_named_so() -> None:
    assert devices.device_name(torch.device("xpu")) == "xpu (a kind of device this playground was never tried on)"


def test_torchs_own_faults_are_sentences(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model_of(tiny)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nmore")

    monkeypatch.setattr(llama, "run_stage", full)
    with pytest.raises(ModelError, match="memory is full; choose a shorter --n-positions"):
        made.new_sequence().forward([1, 2], 1)

    def broken(*_: object) -> None:
        raise RuntimeError("expected scalar type Half\nbut found Float.")

    monkeypatch.setattr(llama, "run_stage", broken)
    with pytest.raises(ModelError, match=r"A pass of tiny failed \(RuntimeError: expected scalar type Half\)"):
        made.new_sequence().forward([1, 2], 1)


def test_padded_rows_leave_no_trace(sighted: Path) -> None:
    exact, padded = draft_of(sighted), draft_of(sighted)
    padded.widths = (4, 16)
    one, two = exact.new_sequence(), padded.new_sequence((3, 9))
    read = np.random.default_rng(2).standard_normal((80, 128)).astype(np.float32)

    def same(begin: int, count: int) -> None:
        ids, before = IDS[begin : begin + count], None if count == 3 else read[begin : begin + count]
        np.testing.assert_allclose(one.forward(ids, count, before), two.forward(ids, count, before), atol=1e-4)
        np.testing.assert_allclose(one.states, two.states, atol=1e-4)

    begin = 0
    for count in (40, 1, 3, 4, 2, 9, 1, 16):
        same(begin, count)
        begin += count
    one.rollback(41)
    two.rollback(41)
    same(41, 5)


def test_the_last_positions_of_a_context_can_be_scored_by_a_wide_program(tiny: Path) -> None:
    exact, padded = model_of(tiny, n_positions=48), model_of(tiny, n_positions=48)
    padded.widths = (16,)
    one, two = exact.new_sequence(), padded.new_sequence((1,))
    for made in (one, two):
        made.forward(IDS[:45], 1)
    for at in (45, 46, 47):
        np.testing.assert_allclose(one.forward(IDS[at : at + 1], 1), two.forward(IDS[at : at + 1], 1), atol=1e-4)
    with pytest.raises(AssertionError):
        two.forward([1], 1)


def test_a_closed_cache_is_used_again(tiny: Path) -> None:
    made = model_of(tiny)
    first = made.new_sequence()
    first.forward(IDS[:30], 1)
    first.close()
    assert made.new_sequence() is first
    assert made.new_sequence() is not first


@pytest.mark.parametrize("widths", [(), (2, 4, 8, 16)])
def test_runs_hold_no_more_memory_each_time(trimmed: Pair, widths: tuple[int, ...]) -> None:
    """Caches are used again, and nothing of a round outlives its run."""
    models = [each for each in (trimmed.target, trimmed.draft) if isinstance(each, model.TorchModel)]
    for each in models:
        each.widths, each.rows_stay = widths, bool(widths)
    session = Session(trimmed)

    def held() -> tuple[list[int], int]:
        for temperature in (0.0, 1.0):
            sampling = Sampling(temperature=temperature, seed=1)
            for _ in session.run(Request(prompt="HELLO", chat_template=False, max_tokens=40, sampling=sampling)):
                pass
        gc.collect()
        return [each._made for each in models], sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    held()
    first = held()
    assert first[0] == [2, 1]
    for _ in range(3):
        assert held() == first


def test_ids_a_draft_may_not_say_are_never_likely(tiny: Path) -> None:
    """More ids than the target has, and some that mean another thing to it."""
    plain, made = model_of(tiny), model_of(tiny)
    assert restricted(made, 120, frozenset({7, 9})) is made
    expected, rows = (each.new_sequence().forward(IDS[:9], 2) for each in (plain, made))
    banned = [7, 9, *range(120, 128)]
    assert (rows[:, banned] == -np.inf).all()
    others = np.setdiff1d(np.arange(128), banned)
    np.testing.assert_array_equal(rows[:, others], expected[:, others])


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs app/bench/requirements-gpu.txt")
def test_the_measurements_of_a_gpu_can_be_rehearsed(tmp_path: Path) -> None:
    """Every part runs, on tiny shapes; transformers' peers aside, which take the longest."""
    file = tmp_path / "gpu.json"
    assert main(["bench", "gpu", "--tiny", "--no-peers", "--json", str(file)]) == 0
    parts = json.loads(file.read_text())
    assert {"recorded", "int4", "int4_large", "same_text_small", "same_text_embedded", "goals"} <= set(parts)
    faults = {
        name: part for name, part in parts.items() if isinstance(part, dict) and {"failed", "left_out"} & set(part)
    }
    assert faults == {}
    assert parts["same_text_embedded"]["tokens"] >= 64
