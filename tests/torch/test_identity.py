"""Whether rows depend on their window: what the check at load finds, and where it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.trace import Request, RunStarted, dumps, loads

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
from app.backends.torch import identity, model  # noqa: E402
from tests.support.torch_models import model_of  # noqa: E402

pytestmark = pytest.mark.slow


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
