"""Conversations: what turns a request may have, what they become, and how one goes on from an answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from app.errors import RequestError, TraceError
from app.record import after, trace
from app.record.conversation import asked, messages_of, room, room_sentence, turns
from app.record.limits import MAX_MESSAGES, MAX_PROMPT_CHARACTERS
from app.record.metrics import Metrics
from app.record.trace import Request, RunFinished, RunStarted, Trace
from app.ui import render
from tests.support import traces
from tests.support.pages import toy_session

Messages = tuple[dict[str, str], ...]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def answer(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


HELLO: Messages = (user("Hi"), answer("Hello."))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"messages": ({"role": "tool", "content": "x"}, answer("y"))}, "Message 1 has the role 'tool'"),
        ({"messages": (user("Hi"), answer(" "))}, "Message 2 is empty"),
        ({"messages": ({"role": "user"}, answer("y"))}, "Message 1 is no role and content"),
        ({"messages": (answer("y"),)}, "does not begin with a turn of the user"),
        ({"messages": (user("Hi"), user("Hi?"), answer("y"))}, "Turns 1 and 2 are both the user's"),
        ({"messages": (user("Hi"),)}, "Turns 1 and 2 are both the user's"),
        ({"messages": HELLO, "prompt": ""}, "ends with an answer, so nothing is asked"),
        ({"messages": (*HELLO, {"role": "system", "content": "Be brief."})}, "only the first can be one"),
        (
            {"messages": ({"role": "system", "content": "Be brief."}, *HELLO), "system": "Be long."},
            "two system prompts",
        ),
        ({"messages": HELLO * MAX_MESSAGES}, f"start a new one after {MAX_MESSAGES}"),
        ({"messages": (user("x" * MAX_PROMPT_CHARACTERS), answer("y"))}, "The conversation is longer than"),
        (
            {"messages": (user("x" * 300), answer("y"))},
            "conversation is .* tokens long and the context holds 256; go back",
        ),
        ({"messages": (user("\ud800"), answer("y"))}, "half a character"),
    ],
)
def test_a_conversation_that_cannot_stand_is_refused_in_a_sentence(change: dict[str, object], fault: str) -> None:
    with pytest.raises(RequestError, match=fault) as caught:
        toy_session().run(replace(Request(prompt="And then?"), **change))  # type: ignore[arg-type]
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "data", [None, {}, "Hi", [["user", "Hi"]], [{**user("Hi"), "name": "x"}], [{"role": "user", "content": 3}]]
)
def test_messages_that_are_none_are_refused_in_a_sentence(data: object) -> None:
    with pytest.raises(RequestError, match=r"messages are no list|Message 1 is no role and content"):
        messages_of(data)


def test_the_turns_are_in_order_with_the_system_prompt_first_and_the_prompt_last() -> None:
    request = Request(prompt="And then?", system="Be brief.", messages=HELLO)
    assert turns(request) == [{"role": "system", "content": "Be brief."}, *HELLO, user("And then?")]
    assert asked(request) == "And then?"
    whole = Request(messages=(*HELLO, user("And then?")))
    assert turns(whole) == [*HELLO, user("And then?")]
    assert asked(whole) == "And then?"


def test_both_arms_read_all_turns_and_write_the_same() -> None:
    """Three turns on a toy that agrees: each is the earlier ones, what is asked, and nothing else, for both arms."""
    session = toy_session(agreement="good", n_positions=1024)
    messages: Messages = ()
    for prompt in ("One", "Two", "Three"):
        run = list(session.run(Request(prompt=prompt, messages=messages, max_tokens=24, k=4)))
        metrics = Metrics(run)
        assert metrics.first_divergence is None
        started = run[0]
        assert isinstance(started, RunStarted)
        # one control token a turn and one that opens the answer, the rest bytes
        read = sum(1 + len(turn["content"].encode()) for turn in (*messages, user(prompt))) + 1
        assert started.prompt_tokens == read
        messages = after(run)
        assert messages[-2:] == (user(prompt), answer(metrics.text("target")))
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3


def test_earlier_turns_decide_the_answer() -> None:
    session = toy_session(n_positions=1024)
    texts = {
        Metrics(session.run(Request(prompt="Go on", messages=messages, max_tokens=16))).text("target")
        for messages in ((), HELLO, (user("Hi"), answer("Hello!")))
    }
    assert len(texts) == 3


def differing() -> Trace:
    return [traces.started(), traces.texts(), *traces.target_arm(1, 2, 6), *traces.SPECULATIVE, RunFinished("length")]


def test_the_person_chooses_where_the_answers_differ() -> None:
    assert after(traces.trace()) == (user("Hello"), answer("The cat sat on a mat. cat"))
    with pytest.raises(RequestError, match="The two answers of this run differ; choose"):
        after(differing())
    assert after(differing(), "target")[-1] == answer("The cat mat")
    assert after(differing(), "speculative")[-1] == answer("The cat sat on a mat. cat")


def test_a_run_without_an_answer_is_nothing_to_go_on_from() -> None:
    runs: list[Trace] = [[], [traces.started(), RunFinished("error", "It broke.")]]
    for run in runs:
        with pytest.raises(RequestError, match="no answer to go on from"):
            after(run)
    alone: Trace = [traces.started(arms="target"), traces.texts(), *traces.target_arm(1, 2), RunFinished("length")]
    with pytest.raises(RequestError, match="no such answer"):
        after(alone, "speculative")


def test_a_conversation_survives_the_trace_file_of_either_version() -> None:
    start = traces.started()
    talk = replace(start, request=replace(start.request, prompt="And then?", messages=HELLO))
    line = trace.dumps(talk)
    assert trace.loads(line) == talk
    assert trace.loads(line.replace('"schema_version":2', '"schema_version":1')) == talk
    with pytest.raises(TraceError, match=r"wrong value at RunStarted\.request\.messages"):
        trace.loads(json.dumps({**json.loads(line), "request": {**json.loads(line)["request"], "messages": ["Hi"]}}))


def test_how_full_the_context_is() -> None:
    metrics = Metrics(traces.trace())
    assert room(metrics) == (5 + 8, 64)
    assert room(Metrics([traces.started()])) is None
    assert room_sentence(13, 64) == "13 of 64 tokens of the context are used."
    assert "nearly full, 1,900 of 2,048 tokens: the next answer may break off." in room_sentence(1900, 2048)
    assert render.items(traces.trace())[-1]["analysis"]["room"] == "13 of 64 tokens of the context are used."


def test_an_answer_that_a_full_context_cuts_says_so() -> None:
    session = toy_session(agreement="good", n_positions=128)
    run = list(session.run(Request(prompt="x" * 90, max_tokens=200, k=4)))
    assert run[-1] == RunFinished("context")
    said = render.verdict(Metrics(run))
    assert said["kind"] == "same"
    assert said["text"].endswith("The context of 128 tokens is full: the answer breaks off.")
