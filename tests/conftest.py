"""Fixtures: the embedded pair, loaded once a session in each precision. Set-up (`./launch.sh setup`) fetched it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
from hypothesis import settings

from app.engine.pair import Pair
from app.pairs import registry as pairs
from app.pairs.options import PairOptions

# the machine is shared: no test may fail for being slow, and none for being unlucky
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def load_embedded() -> Callable[[str], Pair]:
    """The embedded pair by precision; the same object for the same precision."""
    return lru_cache(maxsize=None)(lambda dtype: pairs.load(PairOptions(dtype=dtype)))


@pytest.fixture(scope="session")
def embedded(load_embedded: Callable[[str], Pair]) -> Pair:
    """The embedded pair at the default precision."""
    return load_embedded("int8")
