"""The noise against its promises; what its numbers are distributed like: test_noise_distribution."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.engine.noise import Noise, Purpose

Row = NDArray[np.float32]
ROOT = Path(__file__).parents[1]


def test_noise_is_the_same_in_another_process() -> None:
    program = (
        "from app.engine.noise import Noise, Purpose\n"
        "noise = Noise(2**63 - 1)\n"
        "print(*[noise.uniform(p, d).hex() for p in (0, 10**6) for d in Purpose], *noise.gumbel(3, 4))"
    )
    printed = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for _ in range(2)
    ]
    noise = Noise(2**63 - 1)
    here = [noise.uniform(p, d).hex() for p in (0, 10**6) for d in Purpose], noise.gumbel(3, 4)
    assert printed[0] == printed[1] == " ".join([*here[0], *map(str, here[1])]) + "\n"


def test_noise_of_a_round_is_its_positions_own_except_the_drafts() -> None:
    """What was discarded is drafted and judged with fresh draws; what the target picks with is the position's."""
    noise = Noise(3)
    early, late = noise.at(10), noise.at(12)
    for offset in range(3):
        assert early.uniform(offset + 2, Purpose.FINAL) == late.uniform(offset, Purpose.FINAL)
        assert late.uniform(offset, Purpose.FINAL) == noise.uniform(12 + offset, Purpose.FINAL)
        assert np.array_equal(early.gumbel(offset + 2, 9), noise.gumbel(12 + offset, 9))
        for purpose in (Purpose.DRAFT, Purpose.ACCEPT):
            assert early.uniform(offset + 2, purpose) != late.uniform(offset, purpose)
    draws = [
        noise.at(position).uniform(offset, purpose)
        for position, offset, purpose in np.ndindex(40, 16, 4)
        for purpose in [Purpose(purpose + 1)]
        if purpose in (Purpose.DRAFT, Purpose.ACCEPT)
    ]
    assert len(set(draws)) == len(draws)
