"""Reading a trace is total and bounded: whatever the text, a trace or one sentence."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError, TraceError
from app.record import trace as traces
from app.record.trace import MAX_EVENTS, Request, read_text
from app.record.trace_files import open_trace
from app.ui.render import items
from tests.support.pages import toy_session
from tests.support.traces import trace

LINES = [json.loads(line) for line in traces.write(trace())]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, each in inner for place in places(each, (*path, name)))]


PLACES = places(LINES)[1:]


@given(st.sampled_from(PLACES), JSON)
def test_a_trace_with_anything_in_place_of_something_is_read_or_refused_in_a_sentence(
    place: tuple[Any, ...], value: Any
) -> None:
    changed = json.loads(json.dumps(LINES))
    inner = changed
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    text = "\n".join(json.dumps(line) for line in changed)
    sentence = "."
    try:
        read = read_text(text)
    except TraceError as error:
        sentence = str(error)
    else:
        json.dumps(items(read), allow_nan=False, ensure_ascii=False).encode()
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "NaN",
        "Infinity",
        '{"type":["round"]}',
        '{"type":{}}',
        '{"type":"round","index":' + "9" * 5000 + "}",
        '{"type":"token_texts","pieces":{"' + "9" * 5000 + '":"x"}}',
        '{"type":"token_texts","pieces":{"١":"x"}}',
        '{"type":"run_finished","reason":"stop","message":"\\ud800"}',
        '{"type":"run_finished","reason":["stop"]}',
        "\x00",
        "null",
        '"round"',
    ],
)
def test_lines_that_are_no_event_are_refused_in_a_sentence(line: str) -> None:
    with pytest.raises(TraceError, match="trace"):
        read_text(line)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_seconds_are_numbers(number: str) -> None:
    text = "".join(traces.write(trace()))
    assert '"host_seconds":0.' in text
    head, _, tail = text.partition('"host_seconds":')
    with pytest.raises(TraceError):
        read_text(f'{head}"host_seconds":{number},{tail.partition(",")[2]}')


def test_line_ends_within_a_string_are_text() -> None:
    events = trace()
    lines = [json.dumps(json.loads(line), ensure_ascii=False) for line in traces.write(events)]
    started = json.loads(lines[0])
    started["request"]["prompt"] = "one\u2028two\u0085three\x1cfour"
    lines[0] = json.dumps(started, ensure_ascii=False)
    read = read_text("\r\n".join(lines))
    assert read[0].request.prompt == "one\u2028two\u0085three\x1cfour"  # type: ignore[union-attr]
    assert read[1:] == events[1:]


def test_more_events_than_a_run_has_are_refused_before_they_are_read() -> None:
    tiny = '{"type":"token_texts","pieces":{}}\n'
    with pytest.raises(TraceError, match=f"more than {MAX_EVENTS} events"):
        read_text(tiny * (MAX_EVENTS + 100_000))
    nothing: object
    for nothing in (None, 3, [], {}):
        with pytest.raises(TraceError, match="no text"):
            read_text(nothing)


def test_a_device_and_a_pipe_are_read_no_further_than_a_trace_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MAX_TRACE_BYTES", 1 << 16)
    with pytest.raises(TraceError, match="larger than"):
        open_trace("/dev/zero")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def fill() -> None:
        with pipe.open("wb") as file:
            file.write("".join(traces.write(trace())).encode())

    thread = threading.Thread(target=fill)
    thread.start()
    assert open_trace(pipe) == trace()
    thread.join()


def test_a_prompt_that_is_no_text_is_refused_in_a_sentence() -> None:
    for request in (Request("\ud800"), Request("Hi", system="\udcff"), Request(messages=({"content": "\udfff"},))):
        with pytest.raises(RequestError, match="half a character"):
            toy_session().run(request)
