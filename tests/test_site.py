"""The static site of recorded runs: its files, its index, and the command that writes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from app.__main__ import main
from app.record.trace import RunStarted
from app.ui import recordings
from app.ui.assets import REPLAYS
from app.ui.site import INDEX, site
from tests.support.pages import foreign
from tests.support.traces import trace


def test_the_recorded_runs_are_a_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--site", str(tmp_path / "site")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "site" / INDEX)
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")} - {"index"}
    assert pages == {path.stem for path in REPLAYS.glob("*.jsonl")}
    index = (tmp_path / "site" / INDEX).read_text(encoding="utf-8")
    for each in recordings.recordings():
        assert f'href="{each["name"]}.html"' in index
    assert sum(path.stat().st_size for path in (tmp_path / "site").iterdir()) < 5_000_000
    for page in (tmp_path / "site").iterdir():
        assert foreign(page.read_text(encoding="utf-8")) == []


def test_names_and_prompts_are_text_and_never_paths() -> None:
    events = trace()
    start = events[0]
    assert isinstance(start, RunStarted)
    hostile = dataclasses.replace(start.request, prompt="<script>alert(1)</script>")
    files = site({"../../up <b>": [dataclasses.replace(start, request=hostile), *events[1:]]})
    assert all("/" not in name for name in files)
    assert "<script>alert(1)" not in files[INDEX]
    assert "&lt;script&gt;alert(1)" in files[INDEX]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["export"], "takes one trace"),
        (["export", "--site", "x", "--out", "y"], "give one of them"),
        (["export", "a.jsonl", "b.jsonl"], "takes one trace"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(flags) == 2
    assert words in capsys.readouterr().err


def test_the_index_says_whose_loop_ran() -> None:
    start, *rest = trace()
    assert isinstance(start, RunStarted)
    reference = dataclasses.replace(start, engine="upstream", lossless=False)
    index = site({"own": [start, *rest], "theirs": [reference, *rest]})[INDEX]
    assert index.count("upstream&#x27;s own loop, a reference: T = ") == 1
