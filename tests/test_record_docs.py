"""The schema of a trace is a public contract: every field of it is documented beside the code."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from app.record import trace

README = (Path(trace.__file__).parent / "README.md").read_text(encoding="utf-8")
PARTS = [each for each in vars(trace).values() if isinstance(each, type) and is_dataclass(each)]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_is_documented(part: type) -> None:
    named = set(re.findall(r"`(\w+)`", README))
    assert {field.name for field in fields(part)} <= named


def test_every_version_that_opens_is_documented() -> None:
    documented = {int(version) for version in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert documented == set(trace.READABLE_VERSIONS)
    assert max(documented) == trace.SCHEMA_VERSION


def test_every_module_of_the_folder_is_named() -> None:
    modules = {path.name for path in Path(trace.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert modules <= set(re.findall(r"`(\w+\.py)`", README))
