"""The torch backend: the embedded pair beside OpenVINO's, placement, the Hub's cache. Its contract: test_contract."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.__main__ import main
from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint, WithEmbeddings
from app.backends.checkpoints.config import read_config
from app.engine.model import StatesCache
from app.engine.noise import draw
from app.engine.pair import Pair
from app.engine.restricted import restricted
from app.engine.sampling import confidence
from app.engine.sampling import warp as sampling_of_numpy
from app.engine.scored import HostRows
from app.engine.session import Session
from app.errors import ModelError, PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, Round, RunStarted, Sampling, dumps, loads
from tests.support.llamas import TINY, conditioned, save_directory, save_tokenizer, weights

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
from app.backends.torch import devices, identity, int4, llama, model, placement, precision, warp  # noqa: E402
from app.bench import gpu_models  # noqa: E402

CPU = torch.device("cpu")
F32 = precision.choose("f32", CPU)
ROOT = Path(__file__).resolve().parent.parent
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "support" / "reference" / "smollm2.json").read_text())[
    "cases"
]
TOKENS = 24
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other, which on a busy machine takes longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return pairs.load(PairOptions(backend="torch", device="cpu", dtype="f32"))


def test_the_embedded_pairs_logits_are_openvinos(pair: Pair, load_embedded: Callable[[str], Pair]) -> None:
    """And its states, and what the draft makes of them."""
    other = load_embedded("f32")
    for case in CASES[:2]:
        ids = case["prompt_ids"]
        before = np.zeros((len(ids), 2 * 576), np.float32)
        for ours, theirs, read in ((pair.target, other.target, ()), (pair.draft, other.draft, (before,))):
            one, two = (cast(StatesCache, each.new_sequence()) for each in (ours, theirs) if each is not None)
            np.testing.assert_allclose(one.forward(ids, 4, *read), two.forward(ids, 4, *read), atol=1e-3)
            np.testing.assert_allclose(one.states, two.states, atol=1e-3)
            before[1:, :576] = two.states[:-1]
            one.close()
            two.close()


@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case["prompt"][:20])
def test_the_embedded_pairs_greedy_tokens_are_openvinos(
    pair: Pair, load_embedded: Callable[[str], Pair], case: dict[str, Any]
) -> None:
    request = Request(prompt=case["prompt"], max_tokens=TOKENS)
    ours, theirs = (Metrics(Session(each).run(request)) for each in (pair, load_embedded("f32")))
    expected = theirs.arms["target"].token_ids
    assert expected == case["greedy_ids"][:TOKENS]
    assert ours.arms["target"].token_ids == ours.arms["speculative"].token_ids == expected
    assert ours.arms["speculative"].rounds == theirs.arms["speculative"].rounds  # as many drafts were kept


def test_the_command_line_runs_it(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--backend", "torch", "--device", "cpu", "--threads", "1", "--max-tokens", "6", "--json"]
    assert main(["run", "--prompt", "HELLO", "--raw", "--target", str(tiny), "--drafter", "lookup", *flags]) == 0
    *events, summary = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (events[0]["backend"], events[0]["device"]) == ("torch", "CPU, 1 threads")
    assert isinstance(events[0]["bit_identical"], bool)
    assert len(summary["arms"]["speculative"]["token_ids"]) == 6


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tokenizer(save_directory(tmp_path / "tiny", TINY, weights(TINY)))


@pytest.fixture
def sighted(tmp_path: Path) -> Path:
    """A draft of two layers that reads states."""
    return conditioned(tmp_path / "sighted", np.arange(3, 123, 3), layers=2)


def draft_of(path: Path) -> model.TorchModel:
    target = SafetensorsCheckpoint(save_directory(path.parent / "embeddings", TINY, weights(TINY)))
    config = read_config(path)
    files = WithEmbeddings(SafetensorsCheckpoint(path), target)
    return placement.load(config, files, name="draft", device=CPU, precision=F32, exact=False, states=True)


def model_of(path: Path, **options: Any) -> model.TorchModel:
    chosen = precision.choose(options.pop("dtype", "f32"), CPU)
    options = {"device": CPU, "precision": chosen, "exact": False, **options}
    return placement.load(read_config(path), SafetensorsCheckpoint(path), name="tiny", **options)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_held_and_near(tiny: Path, dtype: str) -> None:
    exact, half = model_of(tiny), model_of(tiny, dtype=dtype)
    assert half.memory() == exact.memory() // 2 == exact.num_parameters * 2
    one, two = (made.new_sequence().forward(list(range(60)), 60) for made in (exact, half))
    assert two.dtype == np.float32
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.995


def test_four_bits_are_near_and_smaller(tiny: Path) -> None:
    """Of the layers' matrices every value is held to half a step of its group; nothing else is changed, and what is
    computed is what those values give."""
    exact, packed = model_of(tiny), model_of(tiny, dtype="int4")
    assert (packed.dtype, packed.network.dtype) == ("int4", torch.float32)
    (whole,), (stage,) = exact.network.stages, packed.network.stages
    rounded = []
    for layer, packed_layer in zip(whole.layers, stage.layers, strict=True):
        held = {}
        for name in ("qkv", "out", "gate_up", "down"):
            matrix, size = getattr(layer, name), int4.group(getattr(layer, name).shape[1])
            least, most = matrix.unflatten(1, (-1, size)).aminmax(dim=-1)
            held[name] = torch.nn.functional.linear(
                torch.eye(matrix.shape[1]), getattr(packed_layer, name)
            ).T.contiguous()
            assert ((held[name] - matrix).abs() <= 0.51 * ((most - least) / 15).repeat_interleave(size, 1)).all()
        rounded.append(replace(layer, **held))
    assert torch.equal(stage.head, whole.head)
    assert torch.equal(stage.embeddings, whole.embeddings)
    config = read_config(tiny)
    assert packed.memory() == precision.choose("int4", CPU).weight_bytes(config) < exact.memory() / 2
    one, two = (made.new_sequence().forward(IDS, 80) for made in (exact, packed))
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.8  # of random weights, which multiply an error
    exact.network = replace(exact.network, stages=(replace(whole, layers=tuple(rounded)),))
    np.testing.assert_allclose(exact.new_sequence().forward(IDS, 80), two, atol=1e-3)
    kept = packed.new_sequence()
    kept.forward(IDS[:70], 1)
    np.testing.assert_allclose(kept.forward(IDS[70:75], 5), two[70:75], atol=1e-4)


def test_a_pair_in_four_bits_loses_nothing_against_its_target(tmp_path: Path, tiny: Path, sighted: Path) -> None:
    options = PairOptions(backend="torch", target=tiny, draft=sighted, device="cpu", dtype="int4", threads=1)
    pair = pairs.load(options)
    assert pair.draft is not None
    assert (pair.target.dtype, pair.draft.dtype) == ("int4", "int4")
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=3)):
        request = Request(prompt="HELLO", chat_template=False, max_tokens=30, sampling=sampling, acceptor="coupled")
        metrics = Metrics(Session(pair).run(request))
        assert metrics.first_divergence is None
        assert len(metrics.arms["target"].token_ids) == 30 or metrics.reason == "stop"


def test_four_bits_where_they_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PairError, match=r"run on CUDA and on the processor, not on mps; choose --dtype bf16\."):
        precision.choose("int4", torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(PairError, match=r"Tesla T4 \(compute capability 7\.5\) has no kernels"):
        precision.choose("int4", torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(PairError, match="need torchao, which cannot be imported"):
        precision.choose("int4", CPU)


def test_a_70b_in_four_bits_fits_one_card_of_80_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes alone; a card is not needed."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gpu, free = torch.device("cuda"), 79_000_000_000
    large = gpu_models.config(80, 8192, 28672, 64, 8, 128256)
    for name, fits in (("bf16", False), ("int4", True)):
        chosen = precision.choose(name, gpu)
        size = chosen.weight_bytes(large)
        assert (size <= placement.SPARE * free) == fits
        placed = placement.spread(large, chosen, {torch.device("cuda", 0): free, CPU: 2**60})
        assert (CPU not in placed) == fits
    assert 40e9 < size < 42e9


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


# --- programs of fixed widths, as an accelerator has them, run plainly ---


IDS = np.random.default_rng(1).integers(0, 128, 80).tolist()


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
        each.widths = widths
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


# --- whether rows depend on their window ---


def settled(tiny: Path, monkeypatch: pytest.MonkeyPatch, difference: Callable[[model.TorchModel], float]) -> Any:
    made = model_of(tiny)
    made.widths = (2, 4, 8, 16)
    monkeypatch.setattr(identity, "difference", difference)
    identity.settle(made)
    return made.widths, made.bit_identical, made.row_difference


def test_the_widths_whose_bits_agree_are_chosen(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled(tiny, monkeypatch, lambda made: 0.0) == ((2, 4, 8, 16), True, 0.0)
    assert settled(tiny, monkeypatch, lambda made: 0.5 * (len(made.widths) > 1)) == ((16,), True, 0.0)
    assert settled(tiny, monkeypatch, lambda made: 0.25) == ((16,), False, 0.25)


def test_a_window_that_changes_its_rows_is_found(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On arithmetic that is right for one row only by a little."""
    made = model_of(tiny)
    made.widths = (16,)
    assert identity.difference(made) < 1e-4
    honest = model.TorchSequence.forward

    def dependent(self: Any, ids: Any, rows: int) -> Any:
        return honest(self, ids, rows) + 0.5 * (len(ids) == 3)

    monkeypatch.setattr(model.TorchSequence, "forward", dependent)
    assert identity.difference(made) == pytest.approx(0.5, abs=1e-3)


def test_what_was_found_is_in_the_trace(tiny: Path) -> None:
    pair = pairs.load(PairOptions(backend="torch", target=tiny, device="cpu", dtype="f32"))
    assert isinstance(pair.target, model.TorchModel)
    pair.target.row_difference = 0.25
    started = next(Session(pair).run(Request(prompt="HELLO", chat_template=False, max_tokens=2, drafter="lookup")))
    assert isinstance(started, RunStarted)
    assert loads(dumps(started)) == started
    assert (started.target.row_difference, started.draft) == (0.25, None)


def test_what_the_self_check_finds_is_in_figures_and_a_note(tiny: Path) -> None:
    pair = pairs.load(PairOptions(backend="torch", target=tiny, device="cpu", dtype="f32"))
    assert isinstance(pair.target, model.TorchModel)
    difference = pair.target.row_difference
    assert difference is not None
    assert 0 <= difference < 1e-4
    assert pair.target.bit_identical == (difference == 0)
    (note,) = (each for each in pair.notes if "check at load" in each)
    assert ("the same bits" in note) == pair.target.bit_identical
    assert pair.target.bit_identical or f"up to {difference:.1g} with" in note


# --- what measures a GPU ---


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs app/bench/requirements-gpu.txt")
def test_the_measurements_of_a_gpu_can_be_rehearsed(tmp_path: Path) -> None:
    """Every part runs, on tiny shapes; transformers' peers aside, which take the longest."""
    file = tmp_path / "gpu.json"
    assert main(["bench", "gpu", "--tiny", "--no-peers", "--json", str(file)]) == 0
    parts = json.loads(file.read_text())
    assert {"int4", "int4_large", "same_text_small", "goals"} <= set(parts)
    faults = {
        name: part for name, part in parts.items() if isinstance(part, dict) and {"failed", "left_out"} & set(part)
    }
    assert faults == {}


# --- the draw where the logits are, against NumPy's ---


SAMPLINGS = [
    Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    for temperature in (0.0, 0.3, 1.0, 2.0)
    for top_p in (1.0, 0.95, 0.6, 0.01)
    for top_k in (0, 1, 40)
]


@pytest.mark.parametrize("size", [5, 128, 49152])
def test_the_warp_and_the_draw_are_numpys(size: int) -> None:
    rng = np.random.default_rng(size)
    different, judged = 0, 0
    for sampling in SAMPLINGS:
        logits = (rng.standard_normal((2, size)) * rng.choice([1, 4])).astype(np.float32)
        logits[:, 1], logits[:, 3] = logits[:, 2], -np.inf  # equals, and an id that is never said
        values = torch.tensor(warp.scalars(sampling), dtype=torch.float64)
        kind = warp.Kind.of(sampling)
        expected = sampling_of_numpy(logits, sampling)
        np.testing.assert_allclose(warp.warp(torch.from_numpy(logits), kind, values), expected, atol=1e-6)
        for coin in (0.0, *rng.random(3), 1 - 2.0**-53):
            values[2] = coin
            probs, few = warp.step(torch.from_numpy(logits[0]), kind, values)
            token = int(few[warp.TOKEN])
            assert probs is None or probs[token] > 0
            assert (probs is None) == kind.greedy
            assert float(few[warp.CHANCE]) == pytest.approx(expected[0, token], abs=1e-6)
            assert float(few[warp.CONFIDENCE]) == pytest.approx(confidence(logits[0]), abs=1e-5)
            assert few[warp.FINITE] == 1
            different += token != draw(expected[0], coin)
            judged += 1
    assert different <= judged // 100  # ties at rounding


@pytest.mark.parametrize("places", [False, True])
def test_what_is_drawn_beyond_a_refused_draft_is_numpys(places: bool) -> None:
    rng = np.random.default_rng(4)
    for size, number in ((128, 40), (128, 128), (100, 128)):
        kept = np.sort(rng.choice(size, min(number, size), replace=False)) if places else np.arange(min(number, size))
        p, q = (rng.dirichlet(np.full(n, 0.2)).astype(np.float32) for n in (size, len(kept) if places else number))
        whole = np.zeros(size, np.float32)
        whole[kept] = q[: len(kept)]
        for target in (p, whole):  # nothing is left of the second: it is drawn from the row itself
            rest = np.maximum(target - whole, 0)
            expected = rest if rest.any() else target
            for coin in (0.0, *rng.random(8)):
                token, held = warp.draw_rest(
                    torch.from_numpy(target),
                    torch.from_numpy(q),
                    torch.from_numpy(kept) if places else None,
                    torch.tensor([coin], dtype=torch.float64),
                )
                np.testing.assert_array_equal(held, expected)
                assert int(token) == draw(expected, coin)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.8, top_p=0.9)])
def test_rows_on_a_device_answer_as_numpys_do(tiny: Path, sampling: Sampling) -> None:
    made = model_of(tiny)
    here, there = made.new_sequence(), made.new_sequence()
    here.forward(IDS[:20], 1)
    there.forward(IDS[:20], 1)
    rows = there.score(IDS[20:24], 4, sampling, IndexError)
    expected = HostRows(here.forward(IDS[20:24], 4), sampling, IndexError)
    assert (rows.shape, rows.ndim, len(rows)) == (expected.shape, 2, 4)
    np.testing.assert_allclose(rows.all(), expected.all(), atol=1e-6)
    np.testing.assert_allclose(rows.logits, expected.logits, atol=1e-5)
    for row in range(4):
        for token in (IDS[21 + min(row, 2)], 5, 127, 500):
            assert rows.chance(row, token) == pytest.approx(expected.chance(row, token), abs=1e-6)
        for coin in (0.1, 0.5, 0.9):
            assert rows.draw(row, coin) == expected.draw(row, coin)
        assert rows.confidence(row) == pytest.approx(expected.confidence(row), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("coin", [None, 0.5])
def test_rows_that_are_not_finite_are_the_callers_fault(tiny: Path, temperature: float, coin: float | None) -> None:
    made = model_of(tiny)
    head: Any = made.network.stages[-1].head
    head[7] = float("nan")
    sequence = made.new_sequence()
    rows = sequence.score([1, 2], 1, Sampling(temperature=temperature), KeyError, coin)
    for look in (lambda: rows[0], lambda: rows.draw(0, 0.5), lambda: rows.chance(0, 3)):
        with pytest.raises(KeyError):
            look()


@pytest.mark.parametrize("acceptor", ["rejection", "exact", "block", "coupled", "typical"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_run_is_the_same_whether_rows_stay_on_the_device_or_not(
    trimmed: Pair, monkeypatch: pytest.MonkeyPatch, acceptor: str, temperature: float
) -> None:
    """The draft scores 40 ids of 128, so places and ids differ; it reads the target's states, or tokens alone."""
    sampling = Sampling(temperature=temperature, top_p=0.95, seed=3)
    request = Request(prompt="HELLO", chat_template=False, max_tokens=40, k=4, acceptor=acceptor, sampling=sampling)

    def rounds() -> list[Round]:
        said = [each for each in Session(trimmed).run(request) if isinstance(each, Round)]
        return sorted(said, key=lambda each: (each.arm, each.index))  # whichever arm was behind goes on

    there = rounds()
    monkeypatch.delattr(model.TorchSequence, "score")
    here = rounds()
    assert len(there) == len(here) > 10
    for one, other in zip(there, here, strict=True):
        assert [each.id for each in one.drafted] == [each.id for each in other.drafted]
        assert [each.state for each in one.drafted] == [each.state for each in other.drafted]
        assert [each.q for each in one.drafted] == pytest.approx([each.q for each in other.drafted], abs=1e-6)
        assert [each.p for each in one.drafted] == pytest.approx([each.p for each in other.drafted], abs=1e-6)
        assert (one.final is None) == (other.final is None)
        assert one.final is None or other.final is None or one.final.id == other.final.id
        if one.final is not None and other.final is not None:
            rests = [{each.id: each.warped_prob for each in final.residual} for final in (one.final, other.final)]
            assert rests[0] == pytest.approx(rests[1], abs=1e-5)


@pytest.fixture(params=[False, True], ids=["plain", "sighted"])
def trimmed(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    target = save_tokenizer(save_directory(tmp_path / "target", TINY, weights(TINY)))
    kept = np.arange(3, 123, 3)
    draft = conditioned(tmp_path / "draft", kept) if request.param else plain(tmp_path / "draft", kept)
    return pairs.load(PairOptions(backend="torch", target=target, draft=draft, device="cpu", dtype="f32"))


def plain(directory: Path, kept: Any) -> Path:
    config = {**TINY, "num_hidden_layers": 1, "playground": {"kept_ids": 40}}
    tensors = weights(config, seed=1)
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"][kept])
    draft = save_directory(directory, config, {})
    save_file({**tensors, "kept_ids": kept}, draft / "model.safetensors")
    return draft


# --- the Hub, without a network: its cache on disk ---


def run_offline(home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "app", "run", "--backend", "torch", "--device", "cpu", "--raw", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_hub_model_is_taken_from_the_cache_and_its_code_never_run(tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--acme--tiny"
    mapped = {**TINY, "auto_map": {"AutoModelForCausalLM": "modeling_acme.Acme"}}
    snapshot = save_tokenizer(save_directory(cached / "snapshots" / revision, mapped, weights(TINY)))
    (snapshot / "modeling_acme.py").write_text("raise SystemExit('its code was run')\n")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    done = run_offline(
        tmp_path, "--target", "acme/tiny", "--prompt", "HELLO", "--drafter", "lookup", "--max-tokens", "6"
    )
    assert done.returncode == 0, done.stderr
    assert "speculative  6 tokens" in done.stdout
    done = run_offline(tmp_path, "--target", "acme/tiny", "--revision", "v2", "--prompt", "HELLO")
    assert done.returncode == 2
    assert "acme/tiny at revision v2 is not on this machine" in done.stderr
    assert done.stderr.count("\n") == 1
