"""The proofs that speculation changes speed and nothing else: `pytest -k exact`.

Three kinds, the other two in `test_exact_loop.py` and `test_exact_text.py`. *Enumeration*: every window a draft can
propose, every verdict on it with its probability taken from the thresholds the acceptor flips its coins against, and so
the exact distribution of what is emitted. *Sampling*: the round loop itself over thousands of seeds, its first tokens
against the target's own distribution by chi-square, where the same test must refuse the lossy acceptors. *Identity*:
both arms print the same tokens where that is promised.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.acceptance import ACCEPTORS, Acceptor, Block, Verdict
from app.engine.noise import Purpose
from app.record.trace import Sampling
from tests.support.proofs import (
    LOSSLESS,
    LOSSY,
    PAIRS,
    SETTINGS,
    Joint,
    More,
    Pair,
    target_joint,
    total_variation,
)


@dataclass(frozen=True)
class Coins:
    """Stands in for a round's noise: the coins of the judged drafts are given."""

    coins: tuple[float, ...]

    def uniform(self, offset: int, purpose: Purpose) -> float:
        return self.coins[offset] if purpose is Purpose.ACCEPT else 0.5


def windows(
    acceptor: Acceptor, pair: Pair, sampling: Sampling, drafts: int, more: More = lambda ids: True
) -> Iterator[tuple[tuple[int, ...], float, NDArray[np.float32], NDArray[np.float32]]]:
    """Every window the draft can propose: its tokens, its probability, the draft's and the target's rows.

    more: whether drafting goes on after these drafts; `drafts` are the most there are.
    """

    def end(ids: tuple[int, ...]) -> int:
        return next((i for i in range(1, drafts) if not more(ids[:i])), drafts)

    whole = itertools.product(range(pair.draft.vocab_size), repeat=drafts)
    for ids in dict.fromkeys(ids[: end(ids)] for ids in whole):
        contexts = [pair.prompt + ids[:i] for i in range(len(ids) + 1)]
        draft_rows = np.stack([pair.draft_probs(context, sampling) for context in contexts[:-1]])
        chance = 1.0
        for row, token in zip(draft_rows, ids, strict=True):
            proposed = row if acceptor.name != "upstream" else np.eye(row.size, dtype=np.float32)[row.argmax()]
            chance *= float(proposed[token]) / float(proposed.sum(dtype=np.float64))
        if chance:
            yield ids, chance, draft_rows, np.stack([pair.target_probs(context, sampling) for context in contexts])


def verdicts(
    acceptor: Acceptor, ids: tuple[int, ...], draft_rows: NDArray[np.float32], target_rows: NDArray[np.float32]
) -> Iterator[tuple[float, Verdict]]:
    """Every number of drafts kept, with its probability and a verdict that keeps as many."""

    def judge(*coins: float) -> Verdict:
        return acceptor(ids, draft_rows, target_rows, Coins(coins))  # type: ignore[arg-type]

    g, never = len(ids), 1 - 2.0**-53
    thresholds = [float(judgement.threshold or 0) for judgement in judge(*[0.0] * g).judgements]
    thresholds += [0.0] * (g - len(thresholds))  # a threshold of 0 ends the judging
    for kept in range(g + 1):
        if acceptor.name == "block":  # the last coin that passes counts
            chance = float(np.prod([1 - h for h in thresholds[kept:]])) * (thresholds[kept - 1] if kept else 1)
        else:  # the first coin that fails counts
            chance = float(np.prod(thresholds[:kept])) * (1 - thresholds[kept] if kept < g else 1)
        if chance > 0:
            verdict = judge(*[0.0] * kept, *[never] * (g - kept))
            assert verdict.num_accepted == kept
            yield chance, verdict


def emitted_joint(
    acceptor: Acceptor, pair: Pair, sampling: Sampling, drafts: int, more: More = lambda ids: True
) -> tuple[Joint, float]:
    """The exact distribution of the next drafts + 1 tokens, one round and then the target alone; and E[kept]."""
    joint: Joint = defaultdict(float)
    expected = 0.0
    for ids, chance, draft_rows, target_rows in windows(acceptor, pair, sampling, drafts, more):
        for likely, verdict in verdicts(acceptor, ids, draft_rows, target_rows):
            kept = verdict.num_accepted
            expected += chance * likely * kept
            final = target_rows[kept] if verdict.residual is None else verdict.residual
            for token in np.flatnonzero(final):
                begun = (*ids[:kept], int(token))
                share = chance * likely * float(final[token]) / float(final.sum(dtype=np.float64))
                rest = replace(pair, prompt=pair.prompt + begun)
                for tokens, then in target_joint(rest, sampling, drafts - kept).items():
                    joint[begun + tokens] += share * then
    return joint, expected


@pytest.mark.parametrize("name", ["rejection", "block"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_enumeration_of_a_window_is_the_targets_joint_distribution(pair: str, setting: str, name: str) -> None:
    emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS[pair], SETTINGS[setting], 2)
    assert total_variation(emitted, target_joint(PAIRS[pair], SETTINGS[setting], 3)) < 1e-6


def test_exact_enumeration_of_a_longer_window() -> None:
    for name in ("rejection", "block"):
        emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS["bad"], SETTINGS["plain"], 3)
        assert total_variation(emitted, target_joint(PAIRS["bad"], SETTINGS["plain"], 4)) < 1e-6


@pytest.mark.parametrize("name", ["rejection", "block"])
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_enumeration_of_windows_that_end_by_what_was_drafted(pair: str, name: str) -> None:
    for more in (lambda ids: ids[-1] % 2 == 0, lambda ids: len(ids) < 2 and ids[-1] == 3):
        emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS[pair], SETTINGS["plain"], 3, more)
        assert total_variation(emitted, target_joint(PAIRS[pair], SETTINGS["plain"], 4)) < 1e-6


@pytest.mark.parametrize("name", ["lenient", "upstream"])
def test_exact_enumeration_convicts_the_lossy(name: str) -> None:
    emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS["good"], SETTINGS["plain"], 2)
    assert total_variation(emitted, target_joint(PAIRS["good"], SETTINGS["plain"], 3)) > 0.05


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_rejection_keeps_a_draft_as_often_as_the_distributions_overlap(pair: str, setting: str) -> None:
    _, kept = emitted_joint(ACCEPTORS["rejection"], PAIRS[pair], SETTINGS[setting], 1)
    p, q = (rows(PAIRS[pair].prompt, SETTINGS[setting]) for rows in (PAIRS[pair].target_probs, PAIRS[pair].draft_probs))
    shared = min(p.size, q.size)
    assert kept == pytest.approx(np.minimum(p[:shared], q[:shared]).sum(), abs=1e-6)


@pytest.mark.slow
def test_exact_block_keeps_at_least_as_many_as_rejection() -> None:
    gains = []
    for pair, setting in itertools.product(PAIRS.values(), SETTINGS.values()):
        (_, by_block), (_, by_rejection) = (
            emitted_joint(ACCEPTORS[name], pair, setting, 2) for name in ("block", "rejection")
        )
        gains.append(by_block - by_rejection)
    assert min(gains) > -1e-6
    assert max(gains) > 0.03


# --- the meter ---


def rounds_of(name: str, pair: Pair, sampling: Sampling) -> Iterator[float]:
    """total_variation of every window of two drafts that can be proposed."""
    acceptor = ACCEPTORS[name]
    for ids, _, draft_rows, target_rows in windows(acceptor, pair, sampling, 2):
        distance = acceptor.total_variation(ids, draft_rows, target_rows)
        assert distance is not None
        yield distance


@pytest.mark.parametrize("name", LOSSLESS)
def test_exact_meter_reads_zero_for_the_lossless(name: str) -> None:
    for pair, setting in itertools.product(PAIRS.values(), SETTINGS.values()):
        assert max(rounds_of(name, pair, setting)) < 1e-6


@pytest.mark.parametrize("name", LOSSY)
def test_exact_meter_shows_the_lossy(name: str) -> None:
    assert max(rounds_of(name, PAIRS["good"], SETTINGS["plain"])) > 0.1


@pytest.mark.parametrize("name", ["rejection", "block", "lenient", "upstream"])
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_meter_agrees_with_enumeration(pair: str, name: str) -> None:
    """One draft: the first emitted token's distribution, by the formula and by going through all that can happen."""
    sampling = SETTINGS["plain"]
    emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS[pair], sampling, 1)
    first: Joint = defaultdict(float)
    for tokens, chance in emitted.items():
        first[tokens[:1]] += chance
    ids, _, draft_rows, target_rows = next(windows(ACCEPTORS[name], PAIRS[pair], sampling, 1))
    expected = total_variation(first, target_joint(PAIRS[pair], sampling, 1))
    assert ACCEPTORS[name].total_variation(ids, draft_rows, target_rows) == pytest.approx(expected, abs=1e-6)


def test_exact_meter_shows_a_block_with_a_wrong_threshold() -> None:
    class Hasty(Block):
        def _prefixes(self, *window):  # type: ignore[no-untyped-def]
            return [replace(prefix, passes=prefix.probability) for prefix in super()._prefixes(*window)]

    distances = [
        Hasty().total_variation(ids, draft_rows, target_rows)
        for ids, _, draft_rows, target_rows in windows(Block(), PAIRS["bad"], SETTINGS["plain"], 2)
    ]
    assert max(distances) > 0.01
