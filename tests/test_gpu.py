"""What only a GPU can show: recorded programs, fused kernels, bits that do not depend on the window. `-m gpu`; skipped,
and said to be, where PyTorch sees none. Small random weights, made on the spot; the same code runs on the processor in
tests/torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.engine.noise import draw
from app.engine.sampling import warp
from app.record.trace import Sampling

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and PyTorch sees none"),
]
from app.backends.torch import identity, llama, model, operations  # noqa: E402
from app.backends.torch.network import Network  # noqa: E402
from app.bench import gpu_models  # noqa: E402
from app.bench.gpu_arms import same_text  # noqa: E402
from app.bench.gpu_embedded import same_text_embedded  # noqa: E402

SHAPE = gpu_models.config(4, 1024, 2816, 16, 4, 32000, n_positions=8192)
DRAFT = gpu_models.config(2, 512, 1408, 8, 2, 32000, n_positions=8192)
IDS = np.random.default_rng(3).integers(0, 32000, 600).tolist()


@pytest.fixture(scope="module")
def device() -> Any:
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def network(device: Any) -> Network:
    return gpu_models.flat(gpu_models.network(SHAPE, device, torch.bfloat16), peak=4.2)


@pytest.fixture(scope="module")
def target(network: Network) -> model.TorchModel:
    made = gpu_models.model(network, SHAPE, "target", "bf16")
    identity.settle(made)
    return made


@pytest.fixture(scope="module")
def draft(device: Any) -> model.TorchModel:
    return gpu_models.model(gpu_models.network(DRAFT, device, torch.bfloat16, wrong=0.3), DRAFT, "draft", "bf16")


def logits_of(made: model.TorchModel, begin: int = 500) -> Any:
    sequence = made.new_sequence((1, 5, 16))
    sequence.forward(IDS[:begin], 1)
    rows = [sequence.forward(IDS[begin : begin + 5], 5), sequence.forward(IDS[begin + 5 : begin + 6], 1)]
    rows.append(sequence.forward(IDS[begin + 6 : begin + 22], 16))
    sequence.close()
    return np.concatenate(rows)


def test_programs_are_recorded_and_kernels_fused(target: model.TorchModel) -> None:
    assert target.graphs
    assert target.unfused is None
    sequence = target.new_sequence((1, 5, 16))
    assert sequence._passes
    for each in sequence._passes.values():
        assert [program.fault for program in each.programs] == [None]
    sequence.close()


def test_a_recorded_pass_has_the_bits_of_a_plain_one(target: model.TorchModel, network: Network) -> None:
    eager = gpu_models.model(network, SHAPE, "target", "bf16", graphs=False)
    eager.widths = target.widths
    assert np.array_equal(logits_of(target), logits_of(eager))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second NVIDIA GPU")
@pytest.mark.parametrize("graphs", [True, False])
def test_another_gpu_than_the_first_computes_the_same(target: model.TorchModel, graphs: bool) -> None:
    """Kernels and recordings go to the GPU that has the weights, whichever is the current one."""
    other = gpu_models.network(SHAPE, torch.device("cuda", 1), torch.bfloat16)
    for part, source in zip(other.stages[0].tensors(), target.network.stages[0].tensors(), strict=True):
        part.copy_(source)
    made = gpu_models.model(other, SHAPE, "target", "bf16", graphs=graphs)
    assert (made.unfused, made.graphs) == (None, graphs)
    made.widths = target.widths
    np.testing.assert_allclose(logits_of(made), logits_of(target), atol=0.25)  # the cards may be of two kinds
    assert {program.fault for program in made.programs()} == {None}


def test_layers_beside_the_gpu_are_computed_on_the_processor(network: Network, target: model.TorchModel) -> None:
    (stage,) = network.stages
    half, cpu = len(stage.layers) // 2, torch.device("cpu")
    slots = llama.Layer.__slots__
    moved = tuple(
        llama.Layer(**{name: None if (held := getattr(layer, name)) is None else held.to(cpu) for name in slots})
        for layer in stage.layers[half:]
    )
    assert stage.norm is not None
    assert stage.head is not None
    one = llama.Stage(stage.device, stage.layers[:half], stage.frequencies, embeddings=stage.embeddings)
    two = llama.Stage(cpu, moved, stage.frequencies.to(cpu), norm=stage.norm.to(cpu), head=stage.head.to(cpu))
    made = gpu_models.model(
        Network((one, two), network.shape, network.vocab_size, network.dtype), SHAPE, "target", "bf16"
    )
    assert (made.graphs, made.unfused) == (False, None)
    made.widths = target.widths
    assert np.corrcoef(logits_of(made).ravel(), logits_of(target).ravel())[0, 1] > 0.999


def test_the_embedded_pairs_arms_say_the_same(device: Any) -> None:
    """`bench gpu --embedded` compares ten thousand tokens."""
    figures = same_text_embedded(str(device), 400, 60)
    assert figures["bit_identical"], figures
    assert figures["identical"], figures
    assert figures["tokens"] >= 400


def test_fused_kernels_compute_what_torchs_own_operations_do(network: Network, target: model.TorchModel) -> None:
    plain = gpu_models.model(network, SHAPE, "target", "bf16", fused=False)
    assert isinstance(plain.operations, operations.Plain)
    one, two = logits_of(target), logits_of(plain)
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.999


def test_fused_kernels_are_exact_in_float32(device: Any) -> None:
    exact = gpu_models.network(SHAPE, device, torch.float32)
    fused, plain = (gpu_models.model(exact, SHAPE, "target", "f32", fused=which) for which in (True, False))
    np.testing.assert_allclose(logits_of(fused), logits_of(plain), atol=2e-3)


def test_a_row_has_the_same_bits_in_every_window(target: model.TorchModel) -> None:
    """On recorded programs, as runs use them: at several places and beyond the first blocks of the cache."""
    assert target.bit_identical, target.row_difference
    sequence = target.new_sequence((1, 2, 3, 5, 8, 16))
    for begin in (40, 127, 500):
        sequence.rollback(0)
        sequence.forward(IDS[:begin], 1)
        together = sequence.forward(IDS[begin : begin + 16], 16)
        for rows in (1, 2, 3, 5, 8):
            sequence.rollback(begin)
            alone = [sequence.forward(IDS[at : at + rows], rows) for at in range(begin, begin + 16 - rows, rows)]
            apart = np.concatenate(alone)
            assert np.array_equal(apart, together[: len(apart)]), (begin, rows)
    sequence.close()


def test_a_text_may_grow_beyond_what_its_first_programs_read(
    target: model.TorchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits_of(target)
    monkeypatch.setattr(model, "LEAST_END", 128)
    sequence = model.TorchSequence(target)
    sequence.forward(IDS[:100], 1)
    for begin in range(100, 500, 16):
        sequence.forward(IDS[begin : begin + 16], 1)
    rows = [sequence.forward(IDS[500:505], 5), sequence.forward(IDS[505:506], 1), sequence.forward(IDS[506:522], 16)]
    assert len(sequence._passes) > 2
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=0.25)


def test_the_draw_is_numpys_by_the_same_coin(draft: model.TorchModel) -> None:
    sequence = draft.new_sequence((1, 2))
    rng = np.random.default_rng(0)
    sequence.forward(IDS[:64], 1)
    different, judged = 0, 0
    for number, setting in enumerate([(1.0, 1.0, 0), (0.7, 0.9, 0), (1.3, 1.0, 40), (2.0, 0.8, 100), (0.0, 1.0, 0)]):
        temperature, top_p, top_k = setting
        sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
        for coin in rng.random(20):
            sequence.rollback(64)
            rows = sequence.score([number], 1, sampling, RuntimeError, float(coin))
            expected = warp(rows.logits, sampling)[0]
            np.testing.assert_allclose(rows[0], expected, atol=1e-6)
            different += rows.draw(0, float(coin)) != draw(expected, float(coin))
            judged += 1
    assert different <= judged // 50  # ties at rounding
    assert all(step.program.fault is None for step in sequence._steps.values())
    sequence.close()


def test_both_arms_say_the_same_and_hold_no_more_each_time(target: model.TorchModel, draft: model.TorchModel) -> None:
    prompts = [gpu_models.chain(SHAPE.vocab_size, 20, start) for start in (1, 5, 9)]
    first = same_text(target, draft, prompts, 100)
    assert first["identical"], first
    held = torch.cuda.memory_allocated()
    for _ in range(3):
        assert same_text(target, draft, prompts, 100)["identical"]
    assert torch.cuda.memory_allocated() <= held + 2**20


def test_a_draft_that_reads_states_is_recorded_as_it_computes(device: Any) -> None:
    of = gpu_models.network(DRAFT, device, torch.bfloat16)
    fusion = torch.randn(512, 1024, dtype=torch.bfloat16, device=device) / 32
    sighted = replace(of, stages=(replace(of.stages[0], fusion=fusion),))
    given = torch.randn(600, 1024, dtype=torch.bfloat16, device=device)
    seen = []
    for graphs in (True, False):
        made = gpu_models.model(sighted, DRAFT, "draft", "bf16", graphs=graphs, states=True)
        assert made.reads_states
        sequence = made.new_sequence((1, 5))
        logits = [sequence.forward(IDS[:500], 1, given[:500])]
        for begin, end in ((500, 505), (505, 506), (506, 511)):
            logits.append(sequence.forward(IDS[begin:end], end - begin, given[begin:end]))
            logits.append(sequence.states.float().cpu().numpy())
        seen.append(logits)
    for one, other in zip(*seen, strict=True):
        assert np.array_equal(one, other)


def test_four_bits_are_recorded_too_and_take_a_quarter(device: Any) -> None:
    packed = gpu_models.network(SHAPE, device, torch.bfloat16, packed=True)
    recorded, eager = (gpu_models.model(packed, SHAPE, "target", "int4", graphs=which) for which in (True, False))
    assert np.array_equal(logits_of(recorded), logits_of(eager))
    assert recorded.memory() < 0.35 * 2 * SHAPE.num_parameters + 2 * 2 * SHAPE.vocab_size * SHAPE.hidden_size
    whole = gpu_models.model(gpu_models.network(SHAPE, device, torch.bfloat16), SHAPE, "target", "bf16")
    assert np.corrcoef(logits_of(recorded).ravel(), logits_of(whole).ravel())[0, 1] > 0.9


def test_layers_in_two_stages_compute_the_same(network: Network, target: model.TorchModel) -> None:
    """As on two GPUs; here both are the same card."""
    (stage,) = network.stages
    half = len(stage.layers) // 2
    one = llama.Stage(stage.device, stage.layers[:half], stage.frequencies, embeddings=stage.embeddings)
    two = llama.Stage(stage.device, stage.layers[half:], stage.frequencies, norm=stage.norm, head=stage.head)
    parted = Network((one, two), network.shape, network.vocab_size, network.dtype)
    made = gpu_models.model(parted, SHAPE, "target", "bf16")
    made.widths = target.widths
    assert np.array_equal(logits_of(made), logits_of(target))
