"""Loading another pair on the page, in a browser, with tiny checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from tests.e2e.conftest import Open, Serve
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> str:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))

    def tiny(name: str, changed: int | None = None) -> Path:
        return save_tokenizer(save_directory(tmp_path / name, TINY, weights(TINY)), changed=changed)

    first, small = PairOptions(target=tiny("Alpha"), dtype="f32"), tiny("Small")
    second = PairOptions(target=tiny("Beta"), draft=small, dtype="f32")
    wrong = PairOptions(target=tiny("Gamma", changed=5), draft=small, dtype="f32")
    listed = {name: pairs.ListedPair(pair) for name, pair in (("one", first), ("two", second), ("wrong", wrong))}
    return serve(Session(pairs.load(first), None, listed))


def test_another_pair_is_loaded_and_a_refusal_leaves_it(address: str, open_page: Open) -> None:
    page, other = open_page(address), open_page(address)
    asked: list[str] = []
    expect(other.locator("#pair-note")).to_contain_text("one is loaded.")
    # but for the prompt's tokens, which it counts by itself
    other.on(
        "request",
        lambda request: (
            asked.append(request.url) if request.method == "POST" and "component_server" not in request.url else None
        ),
    )
    pair, note, header = page.locator("#pair input"), page.locator("#pair-note"), page.locator("#header")
    drafters = page.locator("#drafter input")
    expect(header).to_contain_text("Alpha")
    expect(drafters).to_have_count(1)
    template = page.locator("#chat-template")
    expect(template.locator("input")).to_be_disabled()
    expect(template.locator("input")).not_to_be_checked()
    expect(template).to_contain_text("This model brings no chat template")

    pair.click()
    page.get_by_role("option", name="two").click()
    expect(note).to_contain_text("two is loaded.")
    expect(header).to_contain_text("Beta")

    # the other page was told of it, and showed it by one call
    expect(other.locator("#header")).to_contain_text("Beta")
    expect(other.locator("#pair input")).to_have_value("two")
    expect(other.locator("#drafter input")).to_have_count(3)
    expect(other.locator("#auto-k input")).to_be_attached()
    assert len(asked) == 1, asked
    other.close()

    page.get_by_role("tab", name="About").click()
    expect(page.locator("#about-text")).to_contain_text("Beta")
    page.get_by_role("tab", name="Playground").click()
    expect(drafters).to_have_count(3)
    before = page.evaluate("document.body.classList.contains('dark')")
    page.locator("#header .theme").click()
    assert page.evaluate("document.body.classList.contains('dark')") is not before

    pair.click()
    page.get_by_role("option", name="wrong").click()
    expect(note).to_contain_text("have different tokenizers")
    expect(pair).to_have_value("two")

    page.reload()
    expect(page.locator("#header")).to_contain_text("Beta")
    expect(page.locator("#pair input")).to_have_value("two")
    expect(page.locator("#drafter input")).to_have_count(3)
