"""The noise is what it is called: uniform, Gumbel, exponential, and a draw from the distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from app.engine.noise import Noise, Purpose, gumbel_max

Row = NDArray[np.float32]
ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def test_noise_is_uniform_and_independent_in_every_key() -> None:
    by_seed = [Noise(seed).uniform(7, Purpose.ACCEPT) for seed in range(3000)]
    by_position = [Noise(7).uniform(position, Purpose.ACCEPT) for position in range(3000)]
    for draws in (by_seed, by_position):
        assert min(draws) >= 0
        assert max(draws) < 1
        assert stats.kstest(draws, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.06
    by_purpose = [[Noise(seed).uniform(7, purpose) for seed in range(1000)] for purpose in Purpose]
    assert np.abs(np.corrcoef(by_purpose) - np.eye(len(Purpose))).max() < 0.12


def test_gumbel_noise_is_gumbel_and_prefix_stable() -> None:
    noise = Noise(9)
    vector = noise.gumbel(5, 20_000)
    assert stats.kstest(vector, "gumbel_r").pvalue > 1e-3
    assert np.array_equal(noise.gumbel(5, 100), vector[:100])
    some = np.array([3, 77, 19_999])
    assert np.array_equal(-np.log(noise.exponential(5, some)), vector[some])
    assert abs(np.corrcoef(vector, noise.gumbel(6, 20_000))[0, 1]) < 0.03
    assert abs(np.corrcoef(vector[:-1], vector[1:])[0, 1]) < 0.03


def test_exponential_noise_is_exponential_where_races_are_won() -> None:
    """The least of many, times their number, is exponential again: it would not be with digits lost near 0."""
    ids = np.arange(2000)
    least = [2000 * float(Noise(seed).exponential(0, ids).min()) for seed in range(600)]
    assert min(least) > 0
    assert stats.kstest(least, "expon").pvalue > 1e-3


def test_race_draws_from_the_distribution() -> None:
    probs = np.array([0.05, 0, 0.6, 0.1, 0.25], np.float32)
    counts = np.bincount([gumbel_max(probs, Noise(seed).at(4), 1) for seed in range(3000)], minlength=5)
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3, 4]], [150, 1800, 300, 750]).pvalue > 1e-3
