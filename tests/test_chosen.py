"""What k = auto chose, in words, from runs written by hand."""

from __future__ import annotations

from dataclasses import replace

from app.record.chosen import chosen_windows
from app.record.limits import AUTO
from app.record.trace import Round, RunStarted, Trace
from tests.support.traces import trace


def auto(drafts: list[int]) -> Trace:
    """A run with k = auto whose passes after the prefill drafted so many tokens."""
    events = trace()
    started = next(event for event in events if isinstance(event, RunStarted))
    drafted = next(event for event in events if isinstance(event, Round) and event.drafted)
    passes = [
        replace(drafted, index=index, drafted=(drafted.drafted * 16)[:count])
        for index, count in enumerate([0, *drafts])
    ]
    return [replace(started, request=replace(started.request, k=AUTO)), *passes]


def test_the_windows_are_said_with_the_most_frequent() -> None:
    assert chosen_windows(auto([1, 3, 3, 6])) == "2 to 7, most often 4"
    assert chosen_windows(auto([2, 2])) == "always 3"
    assert chosen_windows(auto([0, 3, 0])) == "always 4; 2 of 3 passes without drafts"
    assert chosen_windows(auto([0, 0])) == "no drafts in any pass"


def test_nothing_is_said_where_there_was_nothing_to_choose() -> None:
    assert chosen_windows(trace()) == ""
    assert chosen_windows(auto([])) == ""
    assert chosen_windows([]) == ""
