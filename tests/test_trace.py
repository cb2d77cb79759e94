"""Traces are read back as they were written, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.__main__ import main
from app.errors import TraceError
from app.record import trace
from app.record.pieces import join_pieces, piece_text
from app.record.trace_files import open_trace
from app.ui import render
from app.ui.export import export_html
from app.ui.instruments import judged
from tests.support import traces


def sample() -> trace.Trace:
    return traces.trace()


def test_a_trace_round_trips() -> None:
    events = sample()
    lines = list(trace.write(events))
    assert all(line.endswith("\n") and line.isascii() for line in lines)
    assert trace.read(lines) == events


@given(st.binary(max_size=12))
def test_any_bytes_survive_as_a_piece(data: bytes) -> None:
    event = trace.TokenTexts({5: piece_text(data)})
    back = trace.loads(trace.dumps(event))
    assert back == event
    assert piece_text(data).encode("utf-8", "surrogateescape") == data


def test_split_characters_are_whole_again_when_joined() -> None:
    halves = [piece_text(part) for part in (b"caf\xc3", b"\xa9 ", b"\xf0\x9f", b"\x98\x80")]
    assert join_pieces(halves) == "café 😀"
    assert join_pieces([halves[0]]) == "caf\ufffd"


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda lines: lines[1:], "does not begin"),
        (lambda lines: [], "does not begin"),
        (lambda lines: ["{", *lines], "not JSON"),
        (lambda lines: [*lines, '{"type": "surprise"}'], "no event"),
        (lambda lines: [*lines, "[1, 2]"], "no event"),
        (lambda lines: [*lines, lines[0]], "goes on after the run's end"),
        (lambda lines: [*lines[:-1], lines[0]], "more than one run"),
        (lambda lines: [lines[0].replace('"schema_version":2', '"schema_version":9'), *lines[1:]], "schema version 9"),
        (lambda lines: [line for line in lines if "token_texts" not in line], "no text for token"),
        (lambda lines: [*lines[:2], *lines[3:]], "Round 0 of the target arm is missing"),
        (lambda lines: [line.replace('"index":1', '"index":2') for line in lines], "is missing"),
        (lambda lines: [line.replace('"verify_seconds":', '"verify_secs":') for line in lines], "unknown field"),
        (lambda lines: [line.replace('"accepted"', '"maybe"') for line in lines], "wrong value"),
        (lambda lines: [line.replace('"index":0', '"index":"0"') for line in lines], "wrong value"),
        (
            lambda lines: [line.replace('"drafted":[{', '"drafted":[7,{') for line in lines],
            "wrong value at Round.drafted",
        ),
        (lambda lines: [line.replace('"drafted":[]', '"drafted":[7,]') for line in lines], "not JSON"),
    ],
)
def test_a_spoilt_trace_is_refused_in_a_sentence(spoil: object, fault: str) -> None:
    lines = [line.rstrip("\n") for line in trace.write(sample())]
    with pytest.raises(TraceError, match=fault) as caught:
        trace.read(spoil(lines))  # type: ignore[operator]
    assert str(caught.value).endswith(".")


def test_every_event_field_is_written() -> None:
    for event in sample():
        data = json.loads(trace.dumps(event))
        assert {field.name for field in fields(event)} | {"type"} == set(data)


V1 = Path(__file__).parent / "fixtures" / "trace_v1.jsonl"
"""`traces.trace()` as version 1 wrote it."""


def test_a_trace_of_version_1_opens_and_is_the_same_run() -> None:
    lines = V1.read_text(encoding="utf-8").splitlines()
    assert '"schema_version":1' in lines[0]
    assert trace.read(lines) == traces.trace()


def test_what_was_opened_from_version_1_is_written_as_version_2_and_reads_back() -> None:
    events = trace.read(V1.read_text(encoding="utf-8").splitlines())
    lines = list(trace.write(events))
    assert '"schema_version":2' in lines[0]
    assert trace.read(lines) == events


def test_a_trace_of_version_1_is_shown_judged_and_exported_as_the_same_run(tmp_path: Path) -> None:
    events, text = open_trace(V1), V1.read_text(encoding="utf-8")
    assert render.items(events) == render.items(traces.trace())
    assert export_html(events) == export_html(traces.trace())
    assert judged(text) == judged("".join(trace.write(traces.trace())))
    page = tmp_path / "run.html"
    assert main(["export", str(V1), "--out", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == export_html(events)


def test_a_trace_of_before_auto_had_a_name_still_opens() -> None:
    lines = V1.read_text(encoding="utf-8").splitlines()
    former = [lines[0].replace('"k":4', '"k":0', 1), *lines[1:]]
    assert former != lines
    assert trace.read(former)[0] == traces.started(k="auto")
    named = list(trace.write([traces.started(k="auto"), *traces.trace()[1:]]))
    assert trace.read(named)[0] == traces.started(k="auto")
    with pytest.raises(TraceError, match=r"wrong value at RunStarted\.request\.k"):
        trace.read([named[0].replace('"k":"auto"', '"k":"most"', 1), *named[1:]])


def test_a_trace_of_before_loops_were_told_apart_is_of_our_own() -> None:
    line = json.loads(trace.dumps(traces.started()))
    del line["engine"]
    read = trace.loads(json.dumps(line))
    assert isinstance(read, trace.RunStarted)
    assert read.engine == "own"
