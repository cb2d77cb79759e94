"""What is kept on disk: made anew where it is damaged, not needed where nothing can be kept, tidied where it is too
much."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.backends.checkpoints import cache
from app.backends.checkpoints.cache import MANIFEST, filled, is_whole
from app.engine.model import Model
from app.pairs import registry
from app.pairs.options import PairOptions
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

CONTENT = {"graph.bin": bytes(range(256)) * 40, "graph.xml": b"<net></net>"}


def write(directory: Path) -> None:
    for name, content in CONTENT.items():
        (directory / name).write_bytes(content)


def holds_it(directory: Path) -> bool:
    return all((directory / name).read_bytes() == content for name, content in CONTENT.items())


def truncate(directory: Path) -> None:
    os.truncate(directory / "graph.bin", 100)


def flip(directory: Path) -> None:
    content = bytearray((directory / "graph.bin").read_bytes())
    content[5000] ^= 1
    (directory / "graph.bin").write_bytes(content)


def remove(directory: Path) -> None:
    (directory / "graph.xml").unlink()


def empty(directory: Path) -> None:
    for file in directory.iterdir():
        file.write_bytes(b"")


def confuse(directory: Path) -> None:
    (directory / MANIFEST).write_text("[" * 100_000, encoding="ascii")


DAMAGES: list[Callable[[Path], None]] = [truncate, flip, remove, empty, confuse]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    directory = filled(tmp_path / "graph", write)
    assert is_whole(directory)
    damage(directory)
    assert not is_whole(directory)
    assert filled(tmp_path / "graph", write) == directory
    assert holds_it(directory)
    assert is_whole(directory)
    assert [each.name for each in tmp_path.iterdir()] == ["graph"]


def test_what_is_whole_is_not_made_again(tmp_path: Path) -> None:
    def never(directory: Path) -> None:
        raise AssertionError

    assert filled(filled(tmp_path / "graph", write), never) == tmp_path / "graph"


def test_where_nothing_can_be_kept_it_is_made_for_this_run(tmp_path: Path) -> None:
    blocked = tmp_path / "cache"
    blocked.write_bytes(b"")  # nothing can be made below a file, whoever asks
    made = filled(blocked / "graph", write)
    assert holds_it(made)
    assert not made.is_relative_to(tmp_path)


FULL = """
import resource, sys
from pathlib import Path
from app.backends.checkpoints.cache import filled
from app.errors import PairError
from tests.test_cache import write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    filled(Path(sys.argv[1]) / "graph", write)
except PairError as error:
    print(error)
"""


def test_where_no_file_can_be_written_a_sentence_says_so_and_nothing_is_left(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "make room on the disk" in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(map(len, CONTENT.values()))
    monkeypatch.setattr(cache, "CACHE_BYTES", 3 * size + 1000)
    for age, name in enumerate("abc"):
        directory = filled(tmp_path / name, write)
        os.utime(directory / MANIFEST, (1000 + age, 1000 + age))
    filled(tmp_path / "a", write)  # used again
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    (tmp_path / f"x.{dead.stdout.strip()}.partial").mkdir()
    (tmp_path / f"x.{os.getppid()}.partial").mkdir()
    filled(tmp_path / "d", write)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "c", "d", f"x.{os.getppid()}.partial"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, flip, remove, empty])
def test_a_pair_loads_and_says_the_same_whatever_became_of_its_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    model = save_tokenizer(save_directory(tmp_path / "model", TINY, weights(TINY)))

    def logits() -> np.ndarray:
        target: Model = registry.load(PairOptions(target=model)).target
        return target.new_sequence().forward([1, 2, 3], 1).copy()

    before = logits()
    (graph,) = (tmp_path / "models" / "cache").glob("graph-*")
    damage(graph)
    assert np.array_equal(logits(), before)
    assert is_whole(graph)


def test_a_pair_loads_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").write_bytes(b"")
    model = save_tokenizer(save_directory(tmp_path / "model", TINY, weights(TINY)))
    assert registry.load(PairOptions(target=model)).target.new_sequence().forward([1, 2, 3], 1).shape[0] == 1
