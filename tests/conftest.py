"""What all tests share: the embedded pair (`./launch.sh setup` fetched it), and what `--quick` leaves out."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import settings

from app.engine.pair import Pair
from app.pairs import registry as pairs
from app.pairs.options import PairOptions

QUICK_WITHOUT = ("slow", "browser", "weights", "network", "gpu")
"""Marks of tests that `--quick` leaves out. Tests below e2e/ and tests of the fixtures here get theirs by
themselves."""
WHOLE_FILE = re.compile(rf"^pytestmark = pytest\.mark\.({'|'.join(QUICK_WITHOUT)})$", re.MULTILINE)

# the machine is shared: no test may fail for being slow, and none for being unlucky
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("quick", settings.get_profile("steady"), max_examples=20)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def load_embedded() -> Callable[[str], Pair]:
    """The embedded pair by precision; the same object for the same precision."""
    return lru_cache(maxsize=None)(lambda dtype: pairs.load(PairOptions(dtype=dtype)))


@pytest.fixture(scope="session")
def embedded(load_embedded: Callable[[str], Pair]) -> Pair:
    """The embedded pair at the default precision."""
    return load_embedded("int8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests that need no weights and no browser, in seconds")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick"):
        settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of which `--quick` would run nothing are not imported for it: with what they need, that takes as long as
    many tests, and once in every process."""
    if not config.getoption("--quick"):
        return None
    if collection_path.is_dir():
        return collection_path.name == "e2e" or None
    python = collection_path.suffix == ".py"
    return (python and bool(WHOLE_FILE.search(collection_path.read_text(encoding="utf-8")))) or None


# before pytest's own, which chooses by marks
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker("browser")
        if {"embedded", "load_embedded"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("weights")
    # what loads the pair comes first: of several processes, one then loads it and compiles its programs for all of them
    items.sort(key=lambda item: item.get_closest_marker("weights") is None)
    if config.getoption("--quick"):
        left_out = [item for item in items if any(item.get_closest_marker(name) for name in QUICK_WITHOUT)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
