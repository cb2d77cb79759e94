"""The torch backend: the embedded pair beside OpenVINO's, placement, the Hub's cache. Its contract: test_contract."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.__main__ import main
from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint
from app.backends.checkpoints.config import read_config
from app.engine.pair import Pair
from app.engine.session import Session
from app.errors import ModelError, PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
for needed in ("transformers", "accelerate"):
    pytest.importorskip(needed, reason="needs app/backends/requirements-torch.txt")
backend = importlib.import_module("app.backends.torch.model")

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "support" / "reference" / "smollm2.json").read_text())[
    "cases"
]
TOKENS = 24


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
    other = load_embedded("f32")
    assert pair.draft is not None
    assert other.draft is not None
    for ours, theirs in ((pair.target, other.target), (pair.draft, other.draft)):
        for case in CASES[:3]:
            one, two = (model.new_sequence().forward(case["prompt_ids"], 4) for model in (ours, theirs))
            assert (np.isfinite(one) == np.isfinite(two)).all()
            known = np.isfinite(one)
            np.testing.assert_allclose(one[known], two[known], atol=1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["prompt"][:20])
def test_the_embedded_pairs_greedy_tokens_are_openvinos(
    pair: Pair, load_embedded: Callable[[str], Pair], case: dict[str, Any]
) -> None:
    request = Request(prompt=case["prompt"], max_tokens=TOKENS)
    ours, theirs = (Metrics(Session(each).run(request)) for each in (pair, load_embedded("f32")))
    expected = theirs.arms["target"].token_ids
    assert expected == case["greedy_ids"][:TOKENS]
    assert ours.arms["target"].token_ids == ours.arms["speculative"].token_ids == expected


def test_the_command_line_runs_it(capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[0]
    flags = ["--backend", "torch", "--device", "cpu", "--threads", "1", "--max-tokens", "6", "--json"]
    assert main(["run", "--prompt", case["prompt"], *flags]) == 0
    *events, summary = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (events[0]["backend"], events[0]["device"]) == ("torch", "CPU, 1 threads")
    assert events[0]["bit_identical"] is False
    assert summary["arms"]["speculative"]["token_ids"] == case["greedy_ids"][:6]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tokenizer(save_directory(tmp_path / "tiny", TINY, weights(TINY)))


def model_of(path: Path, **options: Any) -> Any:
    options = {"device": CPU, "dtype": "f32", **options}
    return backend.TorchModel(read_config(path), SafetensorsCheckpoint(path), name="tiny", **options)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_is_held_and_near(tiny: Path, dtype: str) -> None:
    exact, half = model_of(tiny), model_of(tiny, dtype=dtype)
    assert half.memory() == exact.memory() // 2 == exact.num_parameters * 2
    one, two = (model.new_sequence().forward(list(range(60)), 60) for model in (exact, half))
    assert two.dtype == np.float32
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.995


def test_layers_are_spread_over_devices_by_room(tiny: Path) -> None:
    network = model_of(tiny).network
    whole: dict[int | str, int] = {"cpu": 2**40}
    assert backend.spread(network, torch.float32, whole) == {"": "cpu"}
    layer = sum(parameter.nbytes for parameter in network.model.layers[0].parameters())
    embeddings = network.model.embed_tokens.weight.nbytes
    room: dict[int | str, int] = {0: embeddings + 2 * layer, 1: 2 * layer, "cpu": 2**40}
    placed = backend.spread(network, torch.float32, room)
    at = {name: backend._at(name, placed) for name, _ in network.named_parameters()}
    for number in range(2):  # a layer is never cut
        assert len({place for name, place in at.items() if f"layers.{number}." in name}) == 1
    assert at["model.embed_tokens.weight"] == 0
    assert len(set(at.values())) > 1


def test_a_spread_model_computes_the_same(tiny: Path) -> None:
    """Through accelerate's hooks; there is one device here, so they move nothing."""
    placement = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    spread = model_of(tiny, placement={**placement, "lm_head": "cpu"})
    assert hasattr(spread.network.model.layers, "_hf_hook") or hasattr(spread.network.model.layers[0], "_hf_hook")
    one, two = model_of(tiny).new_sequence(), spread.new_sequence()
    for ids in ([1, 2, 3, 4, 5], [6], [7, 8, 9]):
        assert np.array_equal(one.forward(ids, 1), two.forward(ids, 1))
    two.rollback(4)
    assert two.length == 4


def test_devices_and_precisions_that_are_not_there_are_sentences() -> None:
    for name, fault in (("abacus", "cannot use the device 'abacus'"), ("meta", "runs no models")):
        with pytest.raises(PairError, match=fault) as caught:
            backend.choose_device(name)
        assert str(caught.value).endswith(".")
    if not torch.cuda.is_available():
        with pytest.raises(PairError, match=r"cannot use the device 'cuda'.*choose cpu"):
            backend.choose_device("cuda")
    with pytest.raises(PairError, match="no precision 'int8'; choose one of bf16, f16, f32"):
        backend.choose_dtype("int8", CPU)
    assert (backend.choose_dtype(None, CPU), backend.choose_dtype(None, torch.device("cuda"))) == ("f32", "bf16")


def test_torchs_own_faults_are_sentences(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tiny)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nmore")

    monkeypatch.setattr(type(model.network), "forward", full)
    with pytest.raises(ModelError, match="memory is full; choose a shorter --n-positions"):
        model.new_sequence().forward([1, 2], 1)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("expected scalar type Half\nbut found Float.")

    monkeypatch.setattr(type(model.network), "forward", broken)
    with pytest.raises(ModelError, match=r"A pass of tiny failed \(RuntimeError: expected scalar type Half\)"):
        model.new_sequence().forward([1, 2], 1)


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
    assert "--- speculative ---" in done.stdout
    done = run_offline(tmp_path, "--target", "acme/tiny", "--revision", "v2", "--prompt", "HELLO")
    assert done.returncode == 2
    assert "acme/tiny at revision v2 is not in this machine's Hub cache" in done.stderr
    assert done.stderr.count("\n") == 1
