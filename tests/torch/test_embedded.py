"""The embedded pair beside OpenVINO's, the command line, models of the Hub's cache. The contract: test_contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from app.__main__ import main
from app.engine.model import StatesCache
from app.engine.pair import Pair
from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "support" / "reference" / "smollm2.json").read_text())[
    "cases"
]
TOKENS = 24


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
