"""A pair of the catalogue on the page: described, fetched with its progress told, given up, fetched on, loaded; from a
local server of the Hub's protocol."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.backends.checkpoints.offered import Offered
from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from tests.e2e.conftest import Open, Serve
from tests.support.hub_server import Hub, serve
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

NAME = "big-llama + small-llama"
MODEL = """
[[models]]
id = "acme/{name}"
family = "tiny"
parameters = {parameters}
layers = 2
kv = 32
n_positions = 256
licence = "Apache-2.0"
"""
PAIR = '[[pairs]]\ntarget = "acme/big-llama"\ndraft = "acme/small-llama"\n'


def tiny(path: Path) -> Path:
    return save_tokenizer(save_directory(path, TINY, weights(TINY)))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("big-llama", "small-llama"):
        tiny(tmp_path / "hub" / "acme" / name)
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with serve(Hub(tmp_path / "hub", cut=100_000, slow=threading.Event())) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def address(hub: Hub, tmp_path: Path, serve: Serve) -> str:
    file = tmp_path / "pairs.toml"
    file.write_text(
        MODEL.format(name="big-llama", parameters=3.0) + MODEL.format(name="small-llama", parameters=1.0) + PAIR
    )
    own = PairOptions(target=tiny(tmp_path / "Alpha"), dtype="f32")
    offered = Offered(own, file)
    listed = {"Alpha": own, **offered.listed()}
    session = Session(pairs.load(own), None, {name: pairs.ListedPair(pair) for name, pair in listed.items()}, "Alpha")
    return serve(session, catalogue=offered)


def test_on_a_phone_list_and_description_have_the_whole_width(hub: Hub, address: str, open_page: Open) -> None:
    """Not a column of a word a line beside the list, which runs over the edge."""
    page = open_page(address, viewport={"width": 390, "height": 844})
    page.locator("#pair input").click()
    page.get_by_role("option", name=NAME).click()
    expect(page.locator("#pair-note")).to_contain_text("fits here")
    for element in ("#pair", "#pair-note"):
        box = page.locator(element).bounding_box()
        assert box is not None
        assert box["width"] > 340, element
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_pair_is_fetched_given_up_fetched_on_and_loaded(hub: Hub, address: str, open_page: Open) -> None:
    assert hub.slow is not None
    page = open_page(address)
    note, fetch, cancel = page.locator("#pair-note"), page.locator("#pair-fetch"), page.locator("#pair-cancel")
    expect(fetch).to_be_hidden()

    page.locator("#pair input").click()
    page.get_by_role("option", name=NAME).click()
    expect(note).to_contain_text("Apache-2.0")
    expect(note).to_contain_text("fits here")
    assert hub.asked == [], "nothing is fetched before somebody says so"

    fetch.click()
    expect(note.locator("progress")).to_have_attribute("value", re.compile(r"^[1-9]\d$"))
    expect(note).to_contain_text(re.compile(r"[1-9]\d% of 0\.3 MB \(model\.safetensors\)"))
    expect(fetch).to_be_hidden()
    cancel.click()
    expect(note).to_contain_text("was stopped; it goes on from there next time")
    expect(page.locator("#pair input")).to_have_value("Alpha")
    expect(cancel).to_be_hidden()

    hub.slow.set()
    page.locator("#pair input").click()
    page.get_by_role("option", name=NAME).click()
    fetch.click()
    expect(note).to_contain_text(f"{NAME} is loaded.")
    expect(page.locator("#header")).to_contain_text("big-llama")
    expect(page.locator("#drafter input")).to_have_count(3)
    ranges = hub.sent("model.safetensors")
    assert ranges.count(None) == 2, "one of each model"
    begins = [int(each.removeprefix("bytes=").removesuffix("-")) for each in ranges if each]
    assert all(begin >= hub.cut for begin in begins), "what has come is not asked for again"
