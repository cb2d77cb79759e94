"""Tensor parallelism over two processes on the processor: the sums of one, Stop, and a process that dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.session import Session
from app.errors import PairError
from app.hosting.process import ProcessEngine
from app.hosting.recipe import pair_recipe
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request
from tests.support.llamas import TINY, conditioned, save_directory, save_tokenizer, weights

pytestmark = pytest.mark.slow

pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")

from tests.support.two_ranks import IDS  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair")
    save_tokenizer(save_directory(path / "target", {**TINY, "attention_bias": True}, weights(TINY, bias=True)))
    conditioned(path / "draft", np.arange(4, 124, 3))
    return path


def options(directory: Path, **more: Any) -> PairOptions:
    both = {"target": directory / "target", "draft": directory / "draft"}
    return PairOptions(backend="torch", device="cpu", dtype="f32", **{**both, **more})


@pytest.fixture(scope="module")
def seen(directory: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.two_ranks", str(directory)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_sums_are_those_of_one_process(seen: dict[str, Any], directory: Path) -> None:
    expected = pairs.load(options(directory)).target.new_sequence().forward(IDS, 3)
    np.testing.assert_allclose(np.array(seen["logits"]), expected, atol=1e-4 * np.abs(expected).max())
    assert seen["device"].startswith("2 × CPU")


def test_a_run_after_a_stopped_one_says_what_one_process_says(seen: dict[str, Any], directory: Path) -> None:
    request = Request(prompt="HELLO", chat_template=False, max_tokens=30)
    metrics = Metrics(Session(pairs.load(options(directory))).run(request))
    assert seen["tokens"] == [metrics.arms[name].token_ids for name in ("target", "speculative")]


def test_the_pages_engine_has_its_processes_too(directory: Path, seen: dict[str, Any]) -> None:
    """It is a process itself, started by another command line than the playground's."""
    engine = ProcessEngine(pair_recipe(options(directory, tp_degree=2, threads=1)))
    try:
        metrics = Metrics(engine.run(Request(prompt="HELLO", chat_template=False, max_tokens=30)))
        assert [metrics.arms[name].token_ids for name in ("target", "speculative")] == seen["tokens"]
    finally:
        engine.close()


def test_a_process_that_dies_ends_the_run_in_a_sentence(seen: dict[str, Any]) -> None:
    reason, message = seen["killed"]
    assert reason == "error"
    assert message.startswith("Another process of tensor parallelism is gone (")
    assert message.endswith("); start the playground again.")


def test_torchrun_on_two_machines_does_the_same(directory: Path, seen: dict[str, Any]) -> None:
    """As the documentation says; both machines are this one."""
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = ["--master-addr", "127.0.0.1", "--master-port", str(free.getsockname()[1])]
    with ExitStack() as stack:
        logs = [stack.enter_context((directory / f"machine-{number}").open("w+")) for number in range(2)]
        machines = []
        for number, log in enumerate(logs):
            command = [torchrun, "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number), *where]
            command += ["-m", "tests.support.two_ranks", str(directory)]
            machine = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            stack.callback(machine.communicate)
            # each may wait for the other's, and hear no other signal for five minutes
            stack.callback(machine.kill)
            machines.append(machine)
        assert machines[0].stdout is not None
        line = machines[0].stdout.readline()
        assert line, [Path(log.name).read_text() for log in logs]
        answer = json.loads(line)
    np.testing.assert_allclose(answer["logits"], seen["logits"], atol=1e-6)
    assert answer["tokens"] == seen["tokens"]
    assert answer["killed"][0] == "error"
    assert answer["killed"][1].startswith("Another process of tensor parallelism is gone (")


def test_another_pair_is_refused(seen: dict[str, Any]) -> None:
    assert "keeps the pair that tensor parallelism was started for" in seen["again"]


def test_heads_that_cannot_be_shared_are_refused_before_loading(directory: Path) -> None:
    with pytest.raises(
        PairError, match=r"target has 2 key heads, which 3 processes cannot share evenly; choose --tp 2\."
    ):
        pairs.load(options(directory, tp_degree=3))


def test_torchruns_count_is_held_against_the_flag(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(PairError, match="--tp is 2 and torchrun started 4 processes"):
        pairs.load(options(directory, tp_degree=2))
