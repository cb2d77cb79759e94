"""Programs kept on disk: a later start imports them, their bits are those of compiled ones, and whatever became of them
a pair says the same."""

from __future__ import annotations

import locale
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from app.backends.checkpoints.cache import stored
from app.backends.openvino.model import KEPT, SPARE, OpenVinoModel
from app.engine.model import Model
from app.pairs import registry
from app.pairs.options import PairOptions
from app.places import cache_dir
from tests.support.llamas import TINY, conditioned, save_directory, save_tokenizer, weights

WINDOWS = (1, 4)

pytestmark = pytest.mark.slow  # each makes programs anew, half a minute together


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("app.backends.openvino.model.KEPT", 0)
    return save_tokenizer(save_directory(tmp_path / "target", TINY, weights(TINY)))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows with every graph that is compiled."""
    graphs: list[Any] = []
    real = ov.Core.compile_model

    def told(core: ov.Core, graph: ov.Model, *rest: Any) -> Any:
        graphs.append(graph)
        return real(core, graph, *rest)

    monkeypatch.setattr(ov.Core, "compile_model", told)
    return graphs


def rows(model: Model) -> NDArray[np.float32]:
    """Of a prompt, and of passes on all programs."""
    sequence = model.new_sequence(WINDOWS)
    prompt = sequence.forward(list(range(40)), 3).copy()
    passes = [sequence.forward(list(range(count)), count).copy() for count in (1, 2, 4, 7)]
    sequence.close()
    return np.concatenate([prompt, *passes])


def start(target: Path, **options: Any) -> NDArray[np.float32]:
    """What a new start's target gives."""
    return rows(registry.load(PairOptions(target=target, **options)).target)


def alone(target: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    """The same where nothing is kept."""
    with monkeypatch.context() as patch:
        patch.setattr("app.backends.openvino.model.KEPT", 10**9)
        return start(target)


@pytest.mark.parametrize("dtype", ["int8", "bf16", "f32"])
def test_a_later_start_compiles_nothing_and_gives_the_same_bits(
    tmp_path: Path, target: Path, compiled: list[Any], dtype: str
) -> None:
    """The target's states and a draft that reads them, too."""
    draft = conditioned(tmp_path / "draft", np.arange(0, 128, 2))
    options = PairOptions(target=target, draft=draft, dtype=dtype)
    answers = []
    for _ in range(3):
        pair = registry.load(options)
        assert pair.draft is not None
        answers.append((rows(pair.target), rows(pair.draft), len(compiled)))
        programs = [len(cast(OpenVinoModel, model).programs) for model in (pair.target, pair.draft)]
        assert programs[0] == 1 + len(WINDOWS)
    for logits, drafted, count in answers[1:]:
        assert np.array_equal(logits, answers[0][0])
        assert np.array_equal(drafted, answers[0][1])
        assert count == answers[0][2] == sum(programs)


def test_what_is_imported_gives_the_bits_of_what_is_compiled(
    target: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(target, monkeypatch)
    assert np.array_equal(start(target), expected)
    compiled.clear()
    assert np.array_equal(start(target), expected)
    assert not compiled
    start(target, threads=1)
    assert len(compiled) == 1 + len(WINDOWS), "made for other settings"


def flip(name: str) -> Callable[[], None]:
    def spoil() -> None:
        for file in cache_dir().glob(f"*/{name}"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)

    return spoil


def another_s() -> None:
    """Whole, and nothing of this engine's."""

    def write(directory: Path) -> None:
        (directory / "own").write_bytes(b"")
        (directory / "text").write_bytes(b"<net></net>")

    for directory in cache_dir().glob("program-*"):
        assert stored(directory, write)


def another_s_weights() -> None:
    def write(directory: Path) -> None:
        (directory / "exported").write_bytes(bytes(100))
        (directory / "layout.json").write_text("[]", encoding="ascii")

    for directory in cache_dir().glob("weights-*"):
        assert stored(directory, write)


def weights_gone() -> None:
    for directory in cache_dir().glob("weights-*"):
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    "spoil", [flip("exported"), flip("text"), flip("own"), flip("layout.json"), another_s, weights_gone]
)
def test_what_is_damaged_or_foreign_is_made_again(target: Path, compiled: list[Any], spoil: Callable[[], None]) -> None:
    expected = start(target)
    spoil()
    compiled.clear()
    assert np.array_equal(start(target), expected)
    assert compiled
    compiled.clear()
    assert np.array_equal(start(target), expected)
    assert not compiled


def test_foreign_weights_cost_no_more_than_time(target: Path) -> None:
    expected = start(target)
    another_s_weights()
    assert np.array_equal(start(target), expected)


def test_a_full_disk_is_harmless(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may take what programs need, the graph's may."""
    expected = alone(target, monkeypatch)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        assert np.array_equal(start(target), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = {path.name.partition("-")[0] for path in cache_dir().iterdir()}
    assert kept == {"graph"}


def test_an_idle_engine_takes_no_memory_that_is_not_there(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.load(PairOptions(target=target)).target
    monkeypatch.setattr("app.backends.openvino.model.free_memory", lambda: SPARE * model.memory() - 1)
    assert list(model.prepare(WINDOWS)) == []  # type: ignore[attr-defined]
    monkeypatch.setattr("app.backends.openvino.model.free_memory", lambda: SPARE * model.memory())
    assert len(list(model.prepare(WINDOWS))) == len(WINDOWS)  # type: ignore[attr-defined]


def test_programs_of_a_tiny_model_are_not_kept(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.backends.openvino.model.KEPT", KEPT)
    start(target)
    assert not list(cache_dir().glob("program-*"))


def test_clearing_the_cache_disturbs_no_one(target: Path) -> None:
    expected = start(target)
    model = registry.load(PairOptions(target=target)).target
    shutil.rmtree(cache_dir())
    assert np.array_equal(rows(model), expected)


def test_one_program_is_exported_at_a_time_since_the_locale_changes_meanwhile(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's cache puts back the locale it found; of two at once the later would find the first one's."""
    real, exporting, most = ov.Core.compile_model, list[int](), list[int]()

    def told(core: ov.Core, graph: ov.Model, device: str, options: dict[str, Any]) -> Any:
        assert "CACHE_DIR" in options
        exporting.append(1)
        time.sleep(0.05)  # long enough for another to begin
        most.append(len(exporting))
        program = real(core, graph, device, options)
        exporting.pop()
        return program

    monkeypatch.setattr(ov.Core, "compile_model", told)
    before = locale.setlocale(locale.LC_ALL)
    registry.load(PairOptions(target=target)).target.new_sequence((2, 3, 4)).close()
    assert most == [1, 1, 1, 1]
    assert locale.setlocale(locale.LC_ALL) == before
