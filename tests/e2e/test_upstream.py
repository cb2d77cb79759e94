"""A run by upstream's own loop, exported: nobody can take it for an exact one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.ui.export import export_html
from tests.e2e.conftest import Open
from tests.support import traces

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("upstream", [True, False])
def test_an_exported_reference_says_so_in_its_first_line(open_page: Open, tmp_path: Path, upstream: bool) -> None:
    started, *rest = traces.trace()
    changes = {"engine": "upstream", "lossless": False} if upstream else {}
    (tmp_path / "run.html").write_text(export_html([dataclasses.replace(started, **changes), *rest]), encoding="utf-8")  # type: ignore[arg-type]
    page = open_page((tmp_path / "run.html").as_uri())
    expect(page.locator(".pane-speculative .promise")).to_have_text(
        "rejection, a reference" if upstream else "rejection, lossless"
    )
    shown = page.locator("main").inner_text()
    first, second, *_ = [line for line in shown.splitlines() if line.strip()]
    assert ("upstream's own loop, a reference" in first) == upstream
    assert second.startswith("The speculative arm was run by upstream's own loop") == upstream
    assert ("lossless" in shown) != upstream
    taken = page.evaluate("() => Playground.runFacts(Playground.store.run.started).settings")
    assert taken.startswith("upstream's own loop, a reference, k = ") == upstream
    picture = page.evaluate("() => Playground.picture(Playground.store.run, {})")
    assert ("upstream's own loop" in picture.replace("&#39;", "'").replace("&apos;", "'")) == upstream
