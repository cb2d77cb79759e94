"""The page's style sheets: they parse, and name nothing that is not there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tinycss2

from app.places import ASSETS

SHEETS = sorted((ASSETS / "web").glob("*.css"))
SCRIPTS = [
    *sorted((ASSETS / "web").glob("*.js")),
    ASSETS / "uplot" / "uplot.min.js",
    *sorted((ASSETS.parent / "app" / "ui").rglob("*.py")),
]
CONDITIONAL = ("media", "supports", "container")
"""At-rules that hold rules."""
GRADIO = {
    "divider", "gradio-container", "html-container", "reset-button", "tab-container", "tab-wrapper", "tabitem", "wrap",
}  # fmt: skip
"""Classes that Gradio gives its elements."""


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rules(path: Path) -> Iterator[tuple[str, str, list[Any]]]:
    """Each rule: the conditions that it stands in, its selector, its declarations. Raises AssertionError where
    something does not parse."""
    pending = [("", tinycss2.parse_stylesheet(text(path), skip_comments=True, skip_whitespace=True))]
    while pending:
        where, nodes = pending.pop()
        for node in nodes:
            assert node.type != "error", f"{path.name}:{node.source_line}: {node.message}"
            if node.type == "at-rule" and node.lower_at_keyword in CONDITIONAL:
                inner = tinycss2.parse_rule_list(node.content, skip_comments=True, skip_whitespace=True)
                pending.append((where + tinycss2.serialize(node.prelude), inner))
            elif node.type == "qualified-rule":
                inner = tinycss2.parse_blocks_contents(node.content, skip_comments=True, skip_whitespace=True)
                yield where, tinycss2.serialize(node.prelude).strip(), inner


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.name)
def test_every_declaration_parses_and_stands_once(path: Path) -> None:
    selectors = Counter[tuple[str, str]]()
    for where, selector, declarations in rules(path):
        selectors[where, selector] += 1
        names = Counter[str]()
        for each in declarations:
            assert each.type == "declaration", f"{path.name}: {selector}: {tinycss2.serialize([each])}"
            assert each.value, f"{path.name}: {selector}: {each.name} has no value"
            names[each.name] += 1
        assert [name for name, count in names.items() if count > 1] == [], f"{path.name}: {selector}"
    assert selectors
    assert [each for each, count in selectors.items() if count > 1] == []


def test_every_variable_that_is_used_is_set() -> None:
    written = "\n".join(map(text, [*SHEETS, *SCRIPTS]))
    made = set(re.findall(r"(--[\w-]+)[\"'`]?\s*[:,]", written)) | set(re.findall(r"(--kind-)\$?\{", written))
    used = set(re.findall(r"var\((--[\w-]+)\)", "\n".join(map(text, SHEETS))))
    assert len(used) > 10
    assert {each for each in used if each not in made} == set()


def test_every_class_that_is_styled_is_given() -> None:
    given = set(re.findall(r"[\w-]+", "\n".join(map(text, SCRIPTS))))
    given_stems = tuple(re.findall(r"\b([a-z]+-)\$?\{", "\n".join(map(text, SCRIPTS))))
    styled = {
        name
        for path in SHEETS
        for _, selector, _ in rules(path)
        for name in re.findall(r"\.(-?[A-Za-z_][\w-]*)", re.sub(r"\[[^\]]*\]", "", selector))
    }
    assert len(styled) > 100
    assert {each for each in styled - given - GRADIO if not each.startswith(given_stems)} == set()
