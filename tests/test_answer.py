"""An answer as it comes: on a terminal in colours, anywhere else as it is."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from app.cli.answer import Answer, is_coloured, legend
from app.record.metrics import Metrics
from app.record.trace import Round, TokenTexts, Trace
from tests.support.traces import trace

CODES = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """Says that it is a terminal, and keeps what it had been given at each flush."""

    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self.terminal, self.seen = terminal, list[str]()

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.seen.append(self.getvalue())


def written(output: Terminal, events: Trace, coloured: bool) -> Metrics:
    metrics = Metrics()
    answer = Answer(output, "speculative", metrics, coloured)
    for event in events:
        metrics.add(event)
        if isinstance(event, Round):
            answer.add(event)
    answer.close()
    return metrics


def with_text(events: Trace, text: str) -> Trace:
    """The same run, where every token reads like this."""
    return [replace(e, pieces=dict.fromkeys(e.pieces, text)) if isinstance(e, TokenTexts) else e for e in events]


def test_a_file_gets_the_text_as_it_is() -> None:
    output = Terminal(terminal=False)
    metrics = written(output, trace(), is_coloured(output, {}))
    assert output.getvalue() == metrics.text("speculative") + "\n\n"
    assert metrics.text("speculative")


def test_a_terminal_gets_it_round_by_round_in_the_colours_of_its_origin() -> None:
    output = Terminal()
    assert is_coloured(output, {})
    metrics = written(output, trace(), True)
    assert CODES.sub("", output.getvalue()) == metrics.text("speculative") + "\n\n"
    rounds = [event for event in trace() if isinstance(event, Round) and event.arm == "speculative"]
    assert len(output.seen) == len(rounds) + 1
    assert all(later.startswith(earlier) for earlier, later in zip(output.seen, output.seen[1:], strict=False))
    green, underlined, bold = "\x1b[32m", "\x1b[33;4m", "\x1b[34;1m"
    speculative = metrics.arms["speculative"]
    accepted = speculative.counts["accepted"]
    assert 0 < output.getvalue().count(green) <= accepted
    assert output.getvalue().count(underlined) == speculative.counts["corrected"] > 0
    assert output.getvalue().count(bold) == speculative.counts["bonus"] > 0
    assert output.getvalue().count("\x1b[0m") == len(re.findall(r"\x1b\[[1-9]", output.getvalue()))
    assert f"{accepted} accepted" in CODES.sub("", legend(speculative.counts, True))


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_left_out_where_they_are_not_wanted(environment: dict[str, str]) -> None:
    assert not is_coloured(Terminal(), environment)
    assert not is_coloured(Terminal(terminal=False), {})


def test_a_models_text_does_not_steer_the_terminal() -> None:
    hostile = with_text(trace(), "a\x1b]0;title\x07\r\x9b2J\u202eb\n")
    output = Terminal()
    written(output, hostile, False)
    assert set(output.getvalue()) & set("\x1b\x07\r\x9b\u202e") == set()
    assert "a<1B>]0;title<07><0D><9B>2J<202E>b\n" in output.getvalue()
