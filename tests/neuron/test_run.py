"""A pair on Neuron as the command line and the page have it: from its options to the last event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.__main__ import main  # noqa: E402
from app.backends.neuron import machine  # noqa: E402
from app.backends.neuron.upstream import run_upstream  # noqa: E402
from app.errors import RequestError  # noqa: E402
from app.record import trace  # noqa: E402
from app.record.metrics import Metrics  # noqa: E402
from app.record.trace import Round  # noqa: E402
from tests.support import neuron_device  # noqa: E402
from tests.support.neuron_device import Runtime  # noqa: E402
from tests.support.neuron_pairs import AGREEING, NO_ZERO, ON_NXD_INFERENCE, ON_TRANSFORMERS_NEURONX, PROMPT, Load, V  # noqa: E402


@pytest.fixture
def folders(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The checkpoints of a pair, with a tokenizer, on a machine with one device."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    monkeypatch.setattr(machine, "_devices", lambda: [Path("/dev/neuron0")])
    byte_level = Tokenizer(models.BPE({chr(ord("a") + i): i for i in range(V)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    for role, fake in (("target", NO_ZERO), ("draft", {**AGREEING, **NO_ZERO})):
        folder = neuron_device.write_checkpoint(tmp_path / role, fake=fake, vocab_size=V, eos_token_id=[V - 1])
        byte_level.save(str(folder / "tokenizer.json"))
    return {role: str(tmp_path / role) for role in ("target", "draft")}


def run(folders: dict[str, str], *flags: str) -> int:
    pair = ["--backend", "neuron", "--target", folders["target"], "--draft", folders["draft"], "--n-positions", "64"]
    return main(["run", *pair, "--windows", "2,4", "--raw", "--prompt", "abcabc", "--max-tokens", "12", *flags])


def test_a_run_from_its_flags_to_its_last_event(
    folders: dict[str, str], runtime: Runtime, library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both arms, one after the other, over the windows that were compiled."""
    assert run(folders, "--k", "4", "--out", str(tmp_path / "run.jsonl")) == 0
    events = trace.read((tmp_path / "run.jsonl").read_text().splitlines())
    started, finished = events[0], events[-1]
    assert isinstance(started, trace.RunStarted)
    assert isinstance(finished, trace.RunFinished)
    assert (started.backend, started.bit_identical, started.engine, started.lossless) == ("neuron", False, "own", True)
    assert library in started.device
    assert finished.reason in ("stop", "length")
    arms = [event.arm for event in events if isinstance(event, Round)]
    assert arms == sorted(arms, reverse=True)
    assert set(arms) == {"target", "speculative"}
    assert "the same text, bit for bit" in capsys.readouterr().out


@ON_TRANSFORMERS_NEURONX
def test_a_run_by_upstreams_loop_says_so_everywhere(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folders, "--k", "4", "--engine", "upstream", "--out", str(tmp_path / "run.jsonl")) == 0
    assert capsys.readouterr().out.startswith("The speculative arm is upstream's own loop")
    events = trace.read((tmp_path / "run.jsonl").read_text().splitlines())
    started = events[0]
    assert isinstance(started, trace.RunStarted)
    assert (started.engine, started.lossless, started.same_text) == ("upstream", False, False)
    assert started.request.acceptor == "upstream"
    summary = Metrics(events).summary()
    assert (summary["engine"], summary["total_variation"]) == ("upstream", None)
    assert summary["arms"]["target"]["total_variation"] == 0
    assert run(folders, "--k", "4", "--engine", "upstream", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["engine"] == "upstream"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--k", "3"], "k = 3 was not compiled; choose one of 2, 4"),
        (["--k", "99"], "choose 2 to 16"),
        (["--k", "4", "--acceptor", "nobody"], "no acceptor 'nobody'"),
        (["--k", "4", "--acceptor", "no_such_module:Rule"], "no_such_module:Rule cannot be loaded"),
        (["--k", "4", "--drafter", "oracle"], "no drafter 'oracle'"),
        (["--k", "4", "--temperature", "-1"], "temperature is -1"),
        (["--k", "4", "--max-tokens", "0"], "max_tokens is 0"),
        (["--k", "4", "--prompt", " "], "prompt is empty"),
        (["--k", "4", "--windows", "1,4"], "Windows 1, 4 cannot be compiled"),
        (["--k", "4", "--tp-degree", "3"], "tp_degree 3 needs 3 NeuronCores"),
        (["--k", "4", "--dtype", "int8"], "no precision 'int8'"),
    ],
)
def test_what_the_flags_tell_is_refused_with_nothing_compiled(
    folders: dict[str, str], runtime: Runtime, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert run(folders, *flags) == 2
    assert said in capsys.readouterr().err
    assert (runtime.programs_compiled, runtime.loads) == (0, [])


@ON_TRANSFORMERS_NEURONX
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--k", "4", "--drafter", "lookup"], "drafts by a draft model only"),
        (["--k", "4", "--acceptor", "coupled"], "cannot take coupled"),
        (["--k", "4", "--arm", "target"], "is the speculative arm"),
        (["--k", "auto"], "choose a k"),
        (["--k", "3"], "k = 3 was not compiled"),
    ],
)
def test_what_upstreams_loop_cannot_do_is_refused_with_nothing_compiled(
    folders: dict[str, str], runtime: Runtime, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert run(folders, "--engine", "upstream", *flags) == 2
    assert said in capsys.readouterr().err
    assert (runtime.programs_compiled, runtime.loads) == (0, [])


@ON_NXD_INFERENCE
def test_nxd_inference_has_no_loop_to_compare_with(
    folders: dict[str, str], runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folders, "--k", "4", "--engine", "upstream") == 2
    assert "brings no loop of its own" in capsys.readouterr().err
    assert runtime.programs_compiled == 0


def test_a_sweep_over_other_windows_is_refused_with_nothing_compiled(
    folders: dict[str, str], runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--backend", "neuron", "--target", folders["target"], "--draft", folders["draft"], "--windows", "2,4"]
    assert main(["sweep", *pair, "--ks", "2,3", "--prompt", "abc"]) == 2
    assert "k = 3 was not compiled; choose among 2, 4" in capsys.readouterr().err
    assert runtime.programs_compiled == 0


def test_both_checkpoints_must_be_named(runtime: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--backend", "neuron", "--prompt", "abc"]) == 2
    assert "--target DIR and --draft DIR" in capsys.readouterr().err


@ON_NXD_INFERENCE
def test_upstreams_loop_is_not_nxd_inferences(pair: Load) -> None:
    target, draft = pair()
    with pytest.raises(RequestError, match="this pair runs by NxD Inference"):
        next(run_upstream(target, draft, PROMPT, max_tokens=9, k=3, stop_ids=frozenset()))
