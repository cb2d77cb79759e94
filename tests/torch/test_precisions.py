"""Half precision and four bits: held, near, and refused where they cannot be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.backends.checkpoints.config import read_config
from app.engine.session import Session
from app.errors import PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, Sampling

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
from app.backends.torch import int4, placement, precision  # noqa: E402
from app.bench import gpu_models  # noqa: E402
from tests.support.llamas import TINY, save_directory, weights  # noqa: E402
from tests.support.torch_models import CPU, IDS, model_of  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_held_and_near(tiny: Path, dtype: str) -> None:
    exact, half = model_of(tiny), model_of(tiny, dtype=dtype)
    assert half.memory() == exact.memory() // 2 == exact.num_parameters * 2
    one, two = (made.new_sequence().forward(list(range(60)), 60) for made in (exact, half))
    assert two.dtype == np.float32
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.995


@pytest.mark.parametrize(
    ("dtype", "value", "fault"),
    [
        ("f32", np.nan, "are no numbers"),
        ("bf16", -np.inf, "are no numbers"),
        ("int4", np.nan, "are no numbers"),
        ("f16", -65520.0, r"f16 cannot; choose --dtype bf16\."),
    ],
)
def test_weights_that_cannot_be_held_are_refused_by_name(tmp_path: Path, dtype: str, value: float, fault: str) -> None:
    tensors = weights(TINY)
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    save_directory(tmp_path / "tiny", TINY, tensors)
    with pytest.raises(PairError, match=rf"^model\.layers\.1\.mlp\.down_proj\.weight holds values that {fault}"):
        model_of(tmp_path / "tiny", dtype=dtype)


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
