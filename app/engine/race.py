"""Two arms on one device: in turn, each on its own clock, so that each is timed free of the other."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from app.record.trace import Arm, Round

BURST = 0.05
"""Seconds an arm may be ahead before the other goes on: less than the page shows apart, and some rounds in a row, so
that an arm finds its weights in the processor's caches as it does when it runs by itself."""


def race(
    arms: Mapping[Arm, Generator[Round, None, None]], *, one_at_a_time: bool = False
) -> Generator[Round, None, None]:
    """Yield the rounds of all arms, each on its own busy clock, none ahead of another by more than a round and `BURST`.

    So the rounds come in about the order a viewer with two devices would see them. one_at_a_time: the backend holds one
    sequence only, so the arms run one after the other (whoever shows them replays them by their clocks). Closing
    this closes the arms.
    """
    running = dict(arms)
    clocks = dict.fromkeys(arms, 0.0)
    arm = next(iter(running))
    try:
        while running:
            behind = next(iter(running)) if one_at_a_time else min(running, key=clocks.__getitem__)
            if arm not in running or clocks[arm] > clocks[behind] + BURST:
                arm = behind
            round_ = next(running[arm], None)
            if round_ is None:
                del running[arm]
                continue
            clocks[arm] += round_.seconds
            yield round_
    finally:
        for rounds in arms.values():
            rounds.close()
