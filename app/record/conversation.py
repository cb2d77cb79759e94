"""A conversation: the turns before what is asked now, whether they can stand, and how one goes on. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from app.errors import RequestError
from app.record.limits import MAX_MESSAGES
from app.record.metrics import Metrics
from app.record.trace import ARMS, Arm, Event, Request, RunStarted

Message = dict[str, str]
"""role and content, as in a request."""
ROLES = ("system", "user", "assistant")
NEARLY_FULL = 0.8
"""The share of the context from which an answer is likely to break off."""


def asked(request: Request) -> str:
    """What is asked now: the prompt, or the user's turn the messages end with."""
    last = request.messages[-1] if request.messages else {}
    return last.get("content", "") if last.get("role") == "user" else request.prompt


def turns(request: Request) -> list[Message]:
    """The whole conversation, the system prompt first and what is asked now last."""
    system = [{"role": "system", "content": request.system}] if request.system.strip() else []
    prompt = [{"role": "user", "content": request.prompt}] if request.prompt.strip() else []
    return [*system, *request.messages, *prompt]


def messages_of(data: Any) -> tuple[Message, ...]:
    """Earlier turns from JSON types, as a program or a file brings them. Raises RequestError."""
    if not isinstance(data, list):
        raise RequestError('The messages are no list; write them as [{"role": "user", "content": "..."}, ...].')
    for place, message in enumerate(data, start=1):
        if not (
            isinstance(message, dict)
            and set(message) == {"role", "content"}
            and all(isinstance(value, str) for value in message.values())
        ):
            raise RequestError(
                f'Message {place} is no role and content; write it as {{"role": "user", "content": "..."}}.'
            )
    return tuple(data)


def check(request: Request) -> None:
    """Raise RequestError unless the messages are turns of user and assistant, by turns, and something is asked."""
    messages = request.messages
    if len(messages) > MAX_MESSAGES:
        raise RequestError(f"The conversation has {len(messages)} messages; start a new one after {MAX_MESSAGES}.")
    messages_of(list(messages))
    for place, message in enumerate(messages, start=1):
        if message["role"] not in ROLES:
            raise RequestError(f"Message {place} has the role {message['role']!r}; choose user or assistant.")
        if not message["content"].strip():
            raise RequestError(f"Message {place} is empty; write something, or leave it out.")
        if message["role"] == "system" and place > 1:
            raise RequestError(f"Message {place} is a system prompt; only the first can be one.")
    spoken = [message["role"] for message in turns(request) if message["role"] != "system"]
    if request.system.strip() and messages and messages[0]["role"] == "system":
        raise RequestError("There are two system prompts; leave one out, the messages' first or the other.")
    _check_order(spoken)


def _check_order(spoken: Sequence[str]) -> None:
    """spoken: the roles of all turns, what is asked now last."""
    if not spoken or spoken[0] != "user":
        raise RequestError("The conversation does not begin with a turn of the user; leave out what stands before it.")
    for place, (role, following) in enumerate(pairwise(spoken), start=1):
        if role == following:
            raise RequestError(
                f"Turns {place} and {place + 1} are both the {role}'s; turns of user and assistant alternate, and the "
                "prompt is the user's last."
            )
    if spoken[-1] != "user":
        raise RequestError("The conversation ends with an answer, so nothing is asked; give a prompt.")


def after(trace: Iterable[Event], arm: Arm | None = None) -> tuple[Message, ...]:
    """The messages to go on with after a run: its conversation and its answer.

    arm: whose answer; needed where the two differ. Raises RequestError.
    """
    metrics = Metrics(trace)
    if metrics.started is None or not metrics.arms:
        raise RequestError("This run has no answer to go on from; run it again.")
    answers: dict[Arm | None, str] = {name: metrics.text(name) for name in ARMS if name in metrics.arms}
    if arm is None and len(set(answers.values())) > 1:
        raise RequestError("The two answers of this run differ; choose the target's or the speculative one to go on.")
    answer = answers.get(arm or next(iter(answers)))
    if answer is None or not answer.strip():
        raise RequestError("This run has no such answer to go on from; choose another, or run it again.")
    return (*turns(metrics.started.request), {"role": "assistant", "content": answer})


def room(metrics: Metrics) -> tuple[int, int] | None:
    """Tokens of the context that the run's conversation takes up, its longer answer included, and those there are."""
    started = metrics.started
    if started is None or not metrics.arms:
        return None
    used = started.prompt_tokens + max(arm.tokens for arm in metrics.arms.values())
    return used, context_tokens(started)


def context_tokens(started: RunStarted) -> int:
    """The longest context of the run: that of the shorter model, where the draft model ran."""
    target, draft = started.target, started.draft
    if draft is None or started.request.arms == "target" or started.request.drafter == "lookup":
        return target.n_positions
    return min(target.n_positions, draft.n_positions)


def full_sentence(metrics: Metrics) -> str:
    """That the run ended because the context was full; empty where it did not."""
    used = room(metrics) if metrics.reason == "context" else None
    return "" if used is None else f"The context of {used[1]:,} tokens is full: the answer breaks off."


def room_sentence(used: int, holds: int) -> str:
    """How full the context is, and what to do where it nearly is."""
    if used < NEARLY_FULL * holds:
        return f"{used:,} of {holds:,} tokens of the context are used."
    return (
        f"The context is nearly full, {used:,} of {holds:,} tokens: the next answer may break off. Go back to an "
        "earlier turn, or start a new conversation."
    )
