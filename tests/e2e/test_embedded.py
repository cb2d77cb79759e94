"""One run of the real pair in a real browser: what a person sees after pressing Run for the first time."""

from __future__ import annotations

from playwright.sync_api import expect

from app.engine.pair import Pair
from app.engine.session import Session
from app.record import metrics
from tests.e2e.conftest import Open, Serve
from tests.e2e.driving import figure, finish, pane_text, start


def test_first_run_of_the_embedded_pair(open_page: Open, embedded: Pair, serve: Serve) -> None:
    address = serve(Session(embedded))
    page = open_page(address)
    expect(page.locator(".pair-card")).to_contain_text("SmolLM2-135M-Instruct")
    start(page, 40)
    summary = metrics.summary(finish(page))
    arms = summary["arms"]
    assert summary["first_divergence"] is None
    assert arms["target"]["token_ids"] == arms["speculative"]["token_ids"]
    assert pane_text(page, "target") == pane_text(page, "speculative") == arms["target"]["text"]
    assert "transformer" in arms["target"]["text"].lower()
    assert arms["speculative"]["accepted"] > 0
    assert figure(page, "speedup").endswith("×")
    expect(page.locator(".message")).to_contain_text("word for word")
