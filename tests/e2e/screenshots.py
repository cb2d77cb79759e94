"""The README's pictures and its race in slow motion: python -m tests.e2e.screenshots

They show a recorded run of the embedded pair, so its figures are those that were measured, whatever this machine does
now.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from app.bench.browser import launch
from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from tests.support.pages import served

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "screenshots"
SIZE = {"width": 1280, "height": 800}
RECORDING = "1-greedy"
FRAMES, FRAME_MS, END_MS = 56, 140, 2500
RACE_WIDTH, RACE_COLOURS = 860, 48


def _picture(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _save(page: Page, name: str) -> None:
    path = FOLDER / f"{name}.png"
    # 256 colours are all there are, and a third of the bytes
    _picture(page).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def _race(page: Page) -> None:
    """The replay, frame by frame: each is set, not waited for, so that a busy machine loses none."""
    page.evaluate("() => { const { store } = window.Playground; store.playing = true; store.tell('state'); }")
    duration = page.evaluate("window.Playground.store.run.duration")
    frames = []
    for frame in range(FRAMES + 1):
        page.evaluate("(time) => window.Playground.store.seek(time)", duration * frame / FRAMES)
        picture = _picture(page)
        height = round(RACE_WIDTH * picture.height / picture.width)
        frames.append(picture.resize((RACE_WIDTH, height), Image.Resampling.LANCZOS))
    palette = frames[len(frames) // 2].quantize(RACE_COLOURS, dither=Image.Dither.NONE)
    quantized = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    path = FOLDER / "race.gif"
    quantized[0].save(
        path,
        save_all=True,
        append_images=quantized[1:],
        duration=[FRAME_MS] * FRAMES + [END_MS],
        loop=0,
        optimize=True,
    )
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    session = Session(pairs.load(PairOptions()))
    with served(session) as address, sync_playwright() as playwright:
        browser = launch(playwright)

        def shown(query: str, scheme: str = "light") -> Page:
            context = browser.new_context(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            page = context.new_page()
            page.set_default_timeout(180_000)
            page.goto(f"{address}/?replay={RECORDING}{query}")
            page.wait_for_function("window.Playground?.store?.run.finished")
            page.wait_for_timeout(2000)  # the plot is fetched when it is seen
            return page

        for scheme in ("light", "dark"):
            page = shown("", scheme)
            page.locator(".pane-speculative .tok.k-corrected").nth(1).hover()
            page.locator(".pg-card").wait_for()
            _save(page, scheme)
        _save(shown("&present=1"), "present")
        _race(shown(""))
        browser.close()


if __name__ == "__main__":
    main()
