"""Ids and links of the Hub: configurations first, checked, then weights, resumed; from a local server of its
protocol."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.backends.checkpoints.hub_models import local
from app.errors import PairError
from app.pairs import hub, memory
from app.pairs import registry as pairs
from app.pairs.hub_names import Reference, parse
from app.pairs.options import PairOptions
from tests.support.ggufs import write_gguf
from tests.support.hub_server import COMMIT, Hub, serve
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

ROOT = Path(__file__).resolve().parent.parent


def directory(path: Path, change: dict[str, Any] | None = None) -> Path:
    config = {**TINY, **(change or {})}
    return save_tokenizer(save_directory(path, config, weights(config), shards=2))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for name in ("tiny-llama", "draft"):
        directory(folder / "acme" / name)
    return folder


@pytest.fixture
def there(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    shutil.copytree(published, tmp_path / "hub")
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serve(Hub(tmp_path / "hub")) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


def options(target: str, **more: Any) -> PairOptions:
    return PairOptions(target=Path(target), dtype="f32", **more)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("acme/tiny", Reference("acme/tiny")),
        ("acme/tiny:a.Q8_0.gguf", Reference("acme/tiny", "a.Q8_0.gguf")),
        ("https://huggingface.co/acme/tiny", Reference("acme/tiny")),
        ("https:/huggingface.co/acme/tiny", Reference("acme/tiny")),  # what a path makes of it
        ("huggingface.co/acme/tiny/", Reference("acme/tiny")),
        ("hf.co/acme/tiny?library=x", Reference("acme/tiny")),
        ("https://huggingface.co/acme/tiny/tree/v1", Reference("acme/tiny", None, "v1")),
        ("https://huggingface.co/acme/tiny/blob/main/q/a.gguf", Reference("acme/tiny", "q/a.gguf", "main")),
        (
            "https://huggingface.co/acme/tiny/resolve/main/a.gguf?download=true",
            Reference("acme/tiny", "a.gguf", "main"),
        ),
        ("models/llama/x", None),
        ("../llama", None),
        ("/srv/llama", None),
        ("acme/tiny:../a.gguf", None),
    ],
)
def test_ids_and_links_are_understood(text: str, meant: Reference | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert parse(text) == meant


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_a_pair_of_ids_runs_on_every_engine(there: Hub, backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    pair = pairs.load(options("acme/tiny-llama", draft=Path("acme/draft"), backend=backend))
    assert pair.name == "tiny-llama + draft"
    asked = len(there.asked)
    pairs.prepare(options("acme/tiny-llama", draft=Path("acme/draft"), backend=backend))
    assert len(there.asked) == asked + 2  # the two listings, and no file again


def test_one_file_of_a_repository_of_ggufs(there: Hub) -> None:
    folder = there.folder / "acme" / "ggufs"
    folder.mkdir()
    write_gguf(folder / "a.F32.gguf")
    assert local(options("acme/ggufs")).target == Path(os.environ["PLAYGROUND_MODELS"]) / (
        f"hub/acme--ggufs/{COMMIT}/a.F32.gguf"
    )
    write_gguf(folder / "b.gguf", shards=2)
    with pytest.raises(PairError, match=r"2 GGUF files; name one as acme/ggufs:FILE \(a\.F32\.gguf, b-00001-of"):
        local(options("acme/ggufs"))
    with pytest.raises(PairError, match=r"has no file c\.gguf; it holds a\.F32\.gguf"):
        local(options("acme/ggufs:c.gguf"))
    assert pairs.load(options("acme/ggufs:b-00001-of-00002.gguf")).name == "b-00001-of-00002"
    assert len(there.sent("b-00002-of-00002.gguf")) == 1


def test_configurations_are_judged_before_weights_come(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    directory(there.folder / "acme" / "relu", {"hidden_act": "relu"})
    with pytest.raises(PairError, match=r"^acme/relu has the activation relu"):
        local(options("acme/relu"))
    monkeypatch.setattr(memory, "free_memory", lambda: 100_000)
    with pytest.raises(PairError, match="are free"):
        local(options("acme/tiny-llama"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage())
    with pytest.raises(PairError, match=r"more on disk and 0\.0 GB are free"):
        local(options("acme/draft"))
    assert not [path for path, _, _ in there.asked if path.endswith(".safetensors")]


class _Usage:
    free = 0


def test_what_the_hub_refuses_is_a_sentence(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PairError, match="The Hub has no acme/absent"):
        local(options("acme/absent"))
    with pytest.raises(PairError, match="acme/tiny-llama has no revision v9"):
        local(options("acme/tiny-llama", revision="v9"))
    there.gated = frozenset(["acme/draft"])
    with pytest.raises(PairError, match="acme/draft is gated; accept its licence"):
        local(options("acme/draft"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert local(options("acme/draft", revision="v1")).target


def test_offline_uses_what_was_fetched_before(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = local(options("acme/tiny-llama")).target
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")):
        monkeypatch.setenv(name, value)
        assert local(options("acme/tiny-llama")).target == path
        with pytest.raises(PairError, match="acme/draft at revision main is not on this machine, and"):
            local(options("acme/draft"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.slow
def test_a_broken_line_goes_on_where_it_broke(there: Hub) -> None:
    there.cut, there.cuts = 5000, 3
    seen: list[tuple[int, int]] = []
    local(options("acme/tiny-llama"), lambda come, total, name: seen.append((come, total)))
    ranges = there.sent("model-00001-of-00002.safetensors")
    assert ranges[:3] == [None, "bytes=5000-", "bytes=10000-"]
    assert seen[-1][0] == seen[-1][1]
    assert all(before <= after for (before, _), (after, _) in itertools.pairwise(seen) if after)


def test_a_file_that_came_damaged_is_not_kept(there: Hub) -> None:
    there.spoilt = True
    with pytest.raises(PairError, match="came damaged; run the same command again"):
        local(options("acme/tiny-llama"))
    there.spoilt = False
    assert pairs.load(options("acme/tiny-llama")).target.vocab_size == 128


def test_a_fetch_is_given_up_when_asked(there: Hub) -> None:
    cancel = threading.Event()

    def progress(come: int, total: int, name: str) -> None:
        if name.endswith("1-of-00002.safetensors"):
            cancel.set()

    with pytest.raises(hub.FetchStopped, match="goes on from there next time"):
        local(options("acme/tiny-llama"), progress, cancel)
    local(options("acme/tiny-llama"))
    assert len(there.sent("model-00002-of-00002.safetensors")) == 1


@pytest.mark.slow
def test_a_file_that_had_come_whole_when_the_fetch_ended_is_taken(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended behind its last byte and before it was checked: nothing is left to fetch, and it is not there yet."""
    path = local(options("acme/tiny-llama")).target
    assert path is not None
    shard = path / "model-00002-of-00002.safetensors"
    shard.rename(f"{shard}.partial")
    asked = len(there.sent(shard.name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PairError, match="on this machine in part only"):
        local(options("acme/tiny-llama"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    local(options("acme/tiny-llama"))
    assert shard.exists()
    assert len(there.sent(shard.name)) == asked


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_fetch_is_resumed_and_runs(there: Hub, tmp_path: Path, ending: signal.Signals) -> None:
    """From an empty cache: a pair of ids, killed midway, started again, running."""
    there.cut, there.slow = 20_000, threading.Event()
    command = [sys.executable, "-m", "app", "run", "--target", "acme/tiny-llama", "--draft", "acme/draft"]
    command += ["--dtype", "f32", "--raw", "--prompt", "HELLO", "--max-tokens", "6", "--temperature", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    partial = Path(os.environ["PLAYGROUND_MODELS"]) / f"hub/acme--tiny-llama/{COMMIT}"
    while first.poll() is None and not list(partial.glob("model-*.partial")):
        time.sleep(0.05)
    assert first.poll() is None
    first.send_signal(ending)
    try:
        _, said = first.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        first.send_signal(signal.SIGABRT)  # where it stands is said by the fault handler
        _, said = first.communicate()
        raise AssertionError(f"It did not end: {said}") from None
    assert first.returncode == (-signal.SIGKILL if ending == signal.SIGKILL else 130), said
    assert "Traceback" not in said
    held = sum(file.stat().st_size for file in partial.glob("model-*.partial"))
    there.slow.set()
    there.slow, there.cut = None, 0
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "speculative  6 tokens in" in done.stdout
    assert "100% of" in done.stderr
    if held:
        assert f"bytes={held}-" in there.sent("model-00001-of-00002.safetensors")
