"""The prompt's length in tokens, as a person sees it while writing."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.conftest import Open
from tests.e2e.driving import finish, start


def test_the_prompts_tokens_are_said_while_it_is_written_and_not_asked_for_during_a_run(
    open_page: Open, slow_address: str
) -> None:
    page = open_page(slow_address)
    said = page.locator("#prompt .prompt-count")
    expect(said).to_contain_text("tokens")
    page.locator("#prompt textarea").fill("Say hello.")
    expect(said).to_have_text("12 tokens")
    start(page, 2000)
    expect(page.locator(".pane-target .tok").first).to_be_visible()
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.post_data or "") if "component_server" in request.url else None
    )
    page.locator("#prompt textarea").fill("Say hello again.")
    expect(said).to_have_text("")
    page.wait_for_timeout(1000)
    assert not [each for each in asked if "again" in each]
    page.locator("#stop").click()
    finish(page)
    expect(said).to_have_text("18 tokens")
    page.locator("#prompt textarea").fill("x" * 5000)
    expect(said).to_contain_text("shorten it")
    page.locator("#prompt textarea").fill("")
    expect(said).to_have_text("")
