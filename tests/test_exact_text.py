"""Exactness by identity: both arms print the same tokens where that is promised."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from app.engine.acceptance import ACCEPTORS
from app.record.trace import Sampling
from tests.support.proofs import (
    LOSSLESS,
    PAIRS,
    REPEATING,
    SETTINGS,
    Pair,
    rounds,
)


def text(pair: Pair, name: str, sampling: Sampling, k: int, **options: Any) -> tuple[tuple[int, ...], str | None]:
    arm = list(rounds(pair, ACCEPTORS[name], sampling, k, **options))
    return tuple(token for one in arm for token in one.token_ids), arm[-1].finish_reason


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_text_of_both_arms_at_temperature_0(pair: str, name: str) -> None:
    alone = text(PAIRS[pair], name, Sampling(0.0), 1, alone=True)
    assert len(alone[0]) == 32
    for k in (2, 3, 5, 16):
        assert text(PAIRS[pair], name, Sampling(0.0), k) == alone


@pytest.mark.slow
@pytest.mark.parametrize("drafted_by", ["lookup", "draft+lookup"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_exact_text_with_tokens_looked_up(name: str, drafted_by: str) -> None:
    settings = [Sampling(0.0), *([Sampling(1.0, seed=3), Sampling(0.7, seed=4)] if ACCEPTORS[name].same_text else [])]
    for sampling, k in itertools.product(settings, (2, 5, 16)):
        alone = text(REPEATING, name, sampling, 1, max_tokens=60, alone=True)
        assert text(REPEATING, name, sampling, k, max_tokens=60, drafted_by=drafted_by) == alone


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LOSSLESS if ACCEPTORS[name].same_text])
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_text_of_both_arms_at_any_temperature(pair: str, name: str) -> None:
    texts = set()
    for seed, setting in enumerate([*SETTINGS.values(), Sampling(1e-3), Sampling(1.0, top_p=1e-6)]):
        sampling = replace(setting, seed=seed)
        alone = text(PAIRS[pair], name, sampling, 1, max_tokens=20, alone=True)
        texts.add(alone)
        for k in (3, 16):
            assert text(PAIRS[pair], name, sampling, k, max_tokens=20) == alone
    assert len(texts) > 4


@pytest.mark.parametrize("name", [name for name in LOSSLESS if ACCEPTORS[name].same_text])
def test_exact_text_whatever_the_draft(name: str) -> None:
    sampling = Sampling(1.0, seed=4)
    assert (
        len({text(PAIRS[pair], name, sampling, 5) for pair in ("same", "good", "bad", "adversarial", "trimmed")}) == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("stop_ids", [{0}, {3}, {0, 2}])
@pytest.mark.parametrize("name", ["coupled", "exact"])
def test_exact_text_ends_alike_wherever_the_stop_token_falls(name: str, stop_ids: set[int]) -> None:
    """A stop token first, within and last among a round's tokens, token 0 included: both arms end with it."""
    places = set()
    pair = Pair.of("good", size=8)
    for seed in range(25):
        sampling, stops = Sampling(1.0, seed=seed), frozenset(stop_ids)
        alone = text(pair, name, sampling, 1, stop_ids=stops, alone=True)
        assert text(pair, name, sampling, 5, stop_ids=stops) == alone
        last = list(rounds(pair, ACCEPTORS[name], sampling, 5, stop_ids=stops))[-1]
        if last.finish_reason == "stop":
            assert alone[0][-1] in stops
            assert not stops & set(alone[0][:-1])
            places.add((min(len(last.token_ids), 2), last.final is None))
    assert {(1, False), (2, True)} <= places  # first, as the target's own; later, as an accepted draft


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coupled", "exact"])
@pytest.mark.parametrize("limit", [{"max_tokens": n} for n in range(1, 9)] + [{"n_positions": n} for n in range(3, 11)])
def test_exact_text_ends_alike_where_a_limit_cuts_a_window(limit: dict[str, int], name: str) -> None:
    for k, pair in itertools.product((2, 5, 16), ("same", "good")):
        alone = text(PAIRS[pair], name, Sampling(1.0, seed=2), 1, **limit, alone=True)
        assert text(PAIRS[pair], name, Sampling(1.0, seed=2), k, **limit) == alone
        assert alone[1] == ("length" if "max_tokens" in limit else "context")
        assert len(alone[0]) == limit.get("max_tokens", limit.get("n_positions", 0) - 2)


@pytest.mark.parametrize("name", list(ACCEPTORS))
def test_exact_replay_of_a_seed(name: str) -> None:
    """The same seed, the same rounds; another seed, others."""
    pair = PAIRS["good"]
    once, again, other = (
        [(one.token_ids, one.drafted) for one in rounds(pair, ACCEPTORS[name], Sampling(1.0, seed=seed), 4)]
        for seed in (5, 5, 6)
    )
    assert once == again
    assert once != other
