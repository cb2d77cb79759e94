"""Exactness by sampling: the first tokens of the round loop over thousands of seeds against the target's own
distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from app.engine.acceptance import ACCEPTORS
from app.engine.windows import Adaptive, Costs
from app.record.trace import Sampling
from tests.support.proofs import (
    LOSSLESS,
    LOSSY,
    PAIRS,
    REPEATING,
    SETTINGS,
    Joint,
    first_tokens,
    rounds,
    target_joint,
)

pytestmark = pytest.mark.slow


def chi_square(counts: Mapping[tuple[int, ...], int], joint: Joint) -> float:
    """The p-value of the counts under the distribution; cells expecting fewer than 5 are taken together."""
    runs = sum(counts.values())
    if any(joint.get(tokens, 0) == 0 for tokens in counts):
        return 0.0
    often = [tokens for tokens, chance in joint.items() if chance * runs >= 5]
    observed = [counts.get(tokens, 0) for tokens in often]
    expected = [joint[tokens] * runs for tokens in often]
    if runs - sum(expected) > 1e-6 * runs:
        observed.append(runs - sum(observed))
        expected.append(runs - sum(expected))
    if len(observed) < 2:
        return 1.0
    scale = sum(observed) / sum(expected)
    return float(stats.chisquare(observed, np.multiply(expected, scale)).pvalue)


RUNS = 800
LENGTH = 3
LOOPS = {
    "good, k = 5": ("good", "plain", 5),
    "bad, k = 3": ("bad", "plain", 3),
    "adversarial, top_p, k = 4": ("adversarial", "top_p", 4),
    "trimmed, all, k = 2": ("trimmed", "all", 2),
}


def sampled(name: str, loop: str, stop_ids: frozenset[int] = frozenset()) -> tuple[float, Counter[tuple[int, ...]]]:
    pair, setting, k = LOOPS[loop]
    counts = Counter(
        first_tokens(
            rounds(PAIRS[pair], ACCEPTORS[name], replace(SETTINGS[setting], seed=seed), k, stop_ids=stop_ids), LENGTH
        )
        for seed in range(RUNS)
    )
    return chi_square(counts, target_joint(PAIRS[pair], SETTINGS[setting], LENGTH, stop_ids)), counts


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("loop", LOOPS)
def test_exact_loop_emits_the_targets_joint_distribution(loop: str, name: str) -> None:
    p_value, counts = sampled(name, loop)
    assert p_value > 1e-3
    assert len(counts) > 3


@pytest.mark.parametrize("name", ["rejection", "block"])
def test_exact_loop_with_stop_tokens_in_the_window(name: str) -> None:
    p_value, counts = sampled(name, "good, k = 5", frozenset({0, 2}))
    assert p_value > 1e-3
    assert {len(tokens) for tokens in counts} == {1, 2, 3}


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("pair", ["good", "bad", "trimmed", "sighted"])
def test_exact_loop_with_windows_that_end_where_the_draft_is_unsure(pair: str, name: str) -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    ends: Counter[int] = Counter()
    for seed in range(RUNS):
        sampling, windows = replace(SETTINGS["plain"], seed=seed), Adaptive(Costs(((1, 1.0), (16, 4.0))), range(2, 17))
        arm = list(rounds(PAIRS[pair], ACCEPTORS[name], sampling, windows, max_tokens=6))
        counts[first_tokens(iter(arm), LENGTH)] += 1
        ends.update(len(one.drafted) for one in arm if one.drafted and one.finish_reason is None)
    assert chi_square(counts, target_joint(PAIRS[pair], SETTINGS["plain"], LENGTH)) > 1e-3
    assert sum(count > RUNS / 20 for count in ends.values()) > 2


@pytest.mark.parametrize("name", LOSSY)
def test_exact_loop_has_the_power_to_refuse_the_lossy(name: str) -> None:
    p_value, _ = sampled(name, "good, k = 5")
    assert p_value < 1e-9


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("drafted_by", ["lookup", "draft+lookup"])
def test_exact_loop_with_tokens_looked_up(drafted_by: str, name: str) -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    sources: Counter[str | None] = Counter()
    for seed in range(RUNS):
        arm = list(rounds(REPEATING, ACCEPTORS[name], Sampling(1.0, seed=seed), 3, max_tokens=5, drafted_by=drafted_by))
        counts[first_tokens(iter(arm), LENGTH)] += 1
        sources.update(one.source for one in arm if one.drafted)
    assert chi_square(counts, target_joint(REPEATING, SETTINGS["plain"], LENGTH)) > 1e-3
    assert sources["lookup"] > RUNS / 4
    assert (sources["draft"] > RUNS / 4) == (drafted_by == "draft+lookup")


def test_exact_loop_keeps_drafts_as_often_as_the_distributions_overlap() -> None:
    """The acceptance glossary defines, from rows computed outside the loop: a martingale, so its z-score is normal."""
    pair, sampling = PAIRS["bad"], Sampling(1.0, top_p=0.9)
    surplus = variance = 0.0
    for seed in range(30):
        context = pair.prompt
        for one in rounds(pair, ACCEPTORS["rejection"], replace(sampling, seed=seed), 4):
            judged = [token for token in one.drafted if token.state != "discarded"]
            for i, token in enumerate(judged):
                here = context + tuple(draft.id for draft in one.drafted[:i])
                overlap = float(np.minimum(pair.target_probs(here, sampling), pair.draft_probs(here, sampling)).sum())
                surplus += (token.state == "accepted") - overlap
                variance += overlap * (1 - overlap)
            context += one.token_ids
    assert variance > 50
    assert abs(surplus) < 4 * variance**0.5
