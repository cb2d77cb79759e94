"""The scripts and styles of the page: all of them used, each with one duty, and one palette for both languages."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from app.places import ASSETS
from app.ui import assets, palette, plots
from app.ui.assets import UPLOT, WEB

ROOT = ASSETS.parent
HEX = re.compile(r"#[0-9a-fA-F]{3,8}\b")


def variables(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*(#\w+);", block))


def test_the_palette_is_one_in_both_languages() -> None:
    light, dark = (WEB / "palette.css").read_text(encoding="utf-8").split("body.dark {")
    assert variables(light) == palette.LIGHT
    assert variables(dark) == palette.DARK
    assert palette.LIGHT.keys() == palette.DARK.keys()
    assert palette.GREEN[5] == palette.LIGHT["accepted"]


def test_every_figure_names_colours_of_the_palette() -> None:
    for line in plots.elsewhere_figure(0.5).data:
        assert line.meta["colour"] in palette.LIGHT


@pytest.mark.parametrize("path", [path for path in sorted(WEB.glob("*.css")) if path.name != "palette.css"])
def test_styles_take_their_colours_from_the_palette(path: Path) -> None:
    assert HEX.findall(path.read_text(encoding="utf-8").replace("%23", "")) == []


def test_every_file_is_used_once() -> None:
    scripts = {*assets.PAGE_SCRIPTS, *assets.FILE_SCRIPTS, assets.FIRST_SCRIPT}
    styles = {*assets.PAGE_STYLES, *assets.FILE_STYLES}
    assert scripts | styles == {path.name for path in WEB.iterdir()}
    for names in (assets.PAGE_SCRIPTS, assets.FILE_SCRIPTS, assets.PAGE_STYLES, assets.FILE_STYLES):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "checksum"),
    [
        ("uplot.min.js", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"),
        ("uplot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
    ],
)
def test_the_library_is_the_published_one(name: str, checksum: str) -> None:
    assert hashlib.sha256((UPLOT / name).read_bytes()).hexdigest() == checksum


def test_no_style_and_no_script_stands_in_python() -> None:
    for path in ROOT.glob("app/ui/*.py"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"\{[^{}\n]*\b[a-z-]+:[^{}\n]+;[^{}\n]*\}", source), f"{path.name} holds a style"
        assert "addEventListener" not in source, f"{path.name} holds a script"


@pytest.mark.parametrize("folder", ["app/ui", "assets/web"])
def test_files_are_small(folder: str) -> None:
    for path in (ROOT / folder).iterdir():
        if path.is_file():
            assert path.read_text(encoding="utf-8").count("\n") <= 400, path.name
    assert (ROOT / "app/ui/page.py").read_text(encoding="utf-8").count("\n") < 200
