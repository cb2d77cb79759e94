"""Two arms on one device: in turn, each on its own clock, so that each is timed free of the other."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from app.trace import Arm, Round


def race(
    arms: Mapping[Arm, Generator[Round, None, None]], *, one_at_a_time: bool = False
) -> Generator[Round, None, None]:
    """Yield the rounds of all arms, always from the arm whose own busy clock is behind.

    So the rounds come in the order a viewer with two devices would see them. one_at_a_time: the backend holds one
    sequence only, so the arms run one after the other (whoever shows them replays them by their clocks). Closing
    this closes the arms.
    """
    running = dict(arms)
    clocks = dict.fromkeys(arms, 0.0)
    try:
        while running:
            arm = next(iter(running)) if one_at_a_time else min(running, key=clocks.__getitem__)
            round_ = next(running[arm], None)
            if round_ is None:
                del running[arm]
                continue
            clocks[arm] += round_.seconds
            yield round_
    finally:
        for rounds in arms.values():
            rounds.close()
