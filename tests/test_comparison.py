"""Runs side by side: hand-made traces whose differences are known; and the example of the notebooks, run as it
stands."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import app.record
from app.errors import RequestError, TraceError
from app.record import card_of, compare
from app.record.comparison import FIGURES, card_from_json, running_tpot
from app.record.metrics import Metrics
from app.record.trace import Event, RunStarted, Sampling, write
from tests.support import traces


def other() -> list[Event]:
    """The same run at another seed and acceptor, whose speculative arm ended a token early."""
    start = traces.started()
    request = replace(start.request, acceptor="block", sampling=Sampling(seed=4))
    return [replace(start, request=request), traces.texts(), *traces.target_arm(1, 2, 3), *traces.SPECULATIVE[:-1]]


def test_a_cards_pieces_are_whole_characters_that_any_json_can_hold() -> None:
    run = [traces.started(), traces.texts(), *traces.target_arm(1, 8, 9, 2)]
    card = card_of(run)
    assert card.target_pieces == ("The", " ", "é", " cat")
    assert json.dumps(asdict(card), ensure_ascii=False).encode()


def test_only_the_settings_that_differ_are_named() -> None:
    comparison = compare([card_of(traces.trace()), card_of(other())])
    assert {setting.name: setting.values for setting in comparison.settings} == {
        "acceptor": ("rejection", "block"),
        "seed": ("0", "4"),
    }


def test_every_setting_that_decides_a_result_is_compared() -> None:
    start = traces.started()
    names = set(card_of(traces.trace()).settings)
    assert {
        "prompt",
        "k",
        "acceptor",
        "drafter",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "max tokens",
        "arms",
    } <= names
    assert {"pair", "precision", "draft precision", "backend", "device", "system prompt", "chat template"} <= names
    talk = replace(
        start,
        request=replace(
            start.request,
            messages=(
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Yes?"},
                {"role": "user", "content": "Go on"},
            ),
        ),
    )
    settings = card_of([talk, *traces.trace()[1:]]).settings
    assert (settings["prompt"], settings["turns"]) == ("Go on", "2")


def test_figures_stand_side_by_side_with_their_change() -> None:
    comparison = compare([card_of(traces.trace()), card_of(other())])
    figures = {figure.name: figure for figure in comparison.figures}
    length = figures["mean_acceptance_length"]
    assert length.values == pytest.approx((7 / 3, 6 / 2))
    assert length.changes == pytest.approx((0.0, 3 / (7 / 3) - 1))
    assert (length.better, figures["tpot_s"].better, figures["tokens"].better) == (True, False, None)
    assert figures["tokens"].values == (8.0, 7.0)
    assert figures["agreed"].values == (8.0, 3.0)
    assert set(figures) <= set(FIGURES)


def test_a_change_from_nothing_is_not_known() -> None:
    exact, lossy = card_of(traces.trace()), card_of(traces.trace())
    exact = replace(exact, figures={**exact.figures, "total_variation": 0.0, "speedup": None})
    figures = {figure.name: figure for figure in compare([exact, lossy]).figures}
    assert figures["total_variation"].changes == (None, None)
    assert figures["speedup"].changes == (None, None)


def test_texts_are_the_same_to_where_they_part() -> None:
    same, shorter = compare([card_of(traces.trace()), card_of(traces.trace()), card_of(other())]).partings
    assert (same.token, same.first, same.other) == (None, "", "")
    assert same.shared == "The cat sat on a mat. cat"
    assert (shorter.token, shorter.shared, shorter.first, shorter.other) == (7, "The cat sat on a mat.", " cat", "")


def test_the_running_tpot_is_that_of_the_rounds() -> None:
    arm = Metrics(traces.trace()).arms["speculative"]
    points = running_tpot(arm)
    # after the prefill: a round of four tokens in 16 ms, one of two in 16, the tail of one in 13
    assert [point.tokens for point in points] == [5, 7, 8]
    assert [point.tpot_s for point in points] == pytest.approx([0.016 / 4, 0.032 / 6, 0.045 / 7])
    assert points[-1].tpot_s == pytest.approx(arm.tpot_s)


def test_a_card_is_small_and_comes_back_from_json() -> None:
    card = card_of(traces.trace())
    text = json.dumps(asdict(card))
    assert card_from_json(json.loads(text)) == card
    assert len(text) < sum(map(len, write(traces.trace()))) / 2
    assert json.loads(json.dumps(compare([card, card]).to_json()))["partings"][0]["token"] is None
    with pytest.raises(TraceError, match="unknown field 'more'"):
        card_from_json({**json.loads(text), "more": 1})


def test_one_run_is_no_comparison_and_an_empty_one_no_card() -> None:
    with pytest.raises(RequestError, match="pin two or more"):
        compare([card_of(traces.trace())])
    with pytest.raises(RequestError, match="ended before its first token"):
        card_of([traces.started()])


def test_a_run_of_the_target_alone_compares_by_its_text() -> None:
    alone = [traces.started(arms="target"), traces.texts(), *traces.target_arm(1, 2, 3)]
    (parting,) = compare([card_of(traces.trace()), card_of(alone)]).partings
    assert (parting.token, parting.shared) == (3, "The cat sat")
    assert isinstance(alone[0], RunStarted)


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(app.record.__file__).parent / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "run.jsonl").write_text("".join(write(traces.trace())), encoding="utf-8")
    (tmp_path / "other.jsonl").write_text("".join(write(other())), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert f"times as fast: {Metrics(traces.trace()).speedup}" in said
    assert "drafts kept, rounds: (0, 0) (1, 1) (2, 0) (3, 1)" in said
    assert "settings that differ: acceptor seed" in said
    assert "texts part at token 7" in said


def test_what_notebooks_import_is_what_is_promised() -> None:
    assert all(hasattr(app.record, name) for name in app.record.__all__)
    assert app.record.__all__ == sorted(app.record.__all__)
