"""A conversation as a person has it on the page: going on, changing a turn, choosing whose answer is kept."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from app.record import after
from app.record.conversation import asked
from app.record.metrics import Metrics
from app.record.trace import RunStarted, Trace
from tests.e2e.conftest import Open
from tests.e2e.driving import finish, more, start


def started(trace: Trace) -> RunStarted:
    assert isinstance(trace[0], RunStarted)
    return trace[0]


def turns(page: Page) -> list[str]:
    return page.locator(".chat-turns p").all_inner_texts()


def say(page: Page, words: str) -> Trace:
    """Go on from the answer on the page."""
    page.locator(".go-on button").click()
    expect(page.locator("#prompt textarea")).to_be_focused()
    expect(page.locator("#prompt textarea")).to_have_value("")
    page.locator("#prompt textarea").fill(words)
    page.locator("#run").click()
    page.wait_for_function("(words) => window.Playground?.store?.run.started?.request.prompt === words", arg=words)
    return finish(page)


def test_three_turns_at_temperature_0_keep_one_conversation(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 1280, "height": 900})
    start(page, 24, "First")
    expect(page.locator(".chat")).to_be_hidden()
    runs = [finish(page)]
    for words in ("Second", "Third"):
        runs.append(say(page, words))
        assert started(runs[-1]).request.messages == after(runs[-2])
        assert len(turns(page)) == 2 * (len(runs) - 1)
    for run, words in zip(runs, ("First", "Second", "Third"), strict=True):
        assert asked(started(run).request) == words
        assert Metrics(run).first_divergence is None
    expect(page.locator(".message")).to_contain_text("word for word")
    expect(page.locator(".asked-turn")).to_have_text("turn 3")
    said = turns(page)
    page.reload()  # the address holds the conversation
    expect(page.locator("#prompt textarea")).to_have_value("Third")
    assert turns(page) == said
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".chat")).to_be_hidden()
    start(page, 24, "First")
    finish(page)
    assert page.evaluate("window.Playground.store.run.started.request.messages") == []


def test_a_turn_that_is_changed_is_a_branch(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 16, "First")
    finish(page)
    say(page, "Second")
    page.locator(".go-on button").click()
    expect(page.locator(".chat-turns li")).to_have_count(4)
    expect(page.locator(".chat-room")).to_contain_text("of 4,096 tokens of the context are used.")
    said = turns(page)
    page.get_by_role("button", name="edit turn 3").click()
    expect(page.locator("#prompt textarea")).to_have_value("Second")
    assert turns(page) == said[:2]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#prompt textarea")).to_have_value("")
    assert turns(page) == said
    page.get_by_role("button", name="edit turn 2").click()
    page.locator(".chat-editor textarea").fill("Something else.")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("#prompt textarea")).to_have_value("Second")
    assert turns(page) == ["First", "Something else."]
    page.locator("#run").click()
    page.wait_for_function("window.Playground?.store?.run.started?.request.messages[1]?.content === 'Something else.'")
    assert started(finish(page)).request.messages[1]["content"] == "Something else."


def test_where_the_answers_differ_the_person_chooses(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 390, "height": 844})
    more(page)
    page.evaluate("window.Playground.choose({temperature: 1.5, seed: 3})")
    expect(page.locator("#temperature input[type=number]")).to_have_value("1.5")
    start(page, 24, "First")
    run = finish(page)
    assert Metrics(run).first_divergence is not None
    expect(page.locator(".go-on")).to_contain_text("the answers differ")
    for name, arm in (("target only", "target"), ("speculative", "speculative")):
        page.get_by_role("button", name=f"from {name}'s answer").click()
        messages = page.evaluate("window.Playground.conversation.turns")
        assert tuple(messages) == after(run, arm)  # type: ignore[arg-type]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_example_brings_its_conversation(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator(".try", has_text="A second turn").click()
    page.wait_for_function("window.Playground?.store?.run.started")
    request = started(finish(page)).request
    assert [message["role"] for message in request.messages] == ["user", "assistant"]
    assert turns(page)[0] == request.messages[0]["content"]
    assert (request.drafter, request.k) == ("lookup", 8)
