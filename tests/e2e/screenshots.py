"""The README's pictures, of the embedded pair as it is: python -m tests.e2e.screenshots"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from app.bench.browser import launch
from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from tests.e2e.test_playground import FINISHED
from tests.support.pages import served

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "screenshots"
SIZE = {"width": 1360, "height": 1000}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    session = Session(pairs.load(PairOptions()))
    with served(session) as address, sync_playwright() as playwright:
        browser = launch(playwright)
        for scheme in ("light", "dark"):
            page = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()  # type: ignore[arg-type]
            page.set_default_timeout(180_000)
            page.goto(address)
            page.locator(".pg-view").wait_for()
            for _ in range(2):  # the first run warms the pair up
                page.locator("#run").click()
                page.wait_for_function("window.Playground.store.live")
                page.wait_for_function(FINISHED)
            # near the end of the answer, so that the card leaves the text before it to be seen
            page.locator(".pane-speculative .tok.k-corrected").nth(-3).hover()
            page.locator(".pg-card").wait_for()
            path = FOLDER / f"{scheme}.png"
            # 256 colours are all there are, and a third of the bytes
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
            print(path, f"{path.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
