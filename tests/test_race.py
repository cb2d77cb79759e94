"""The scheduler: whose clock is behind goes next; closing it closes both arms."""

from __future__ import annotations

from collections.abc import Generator
from itertools import groupby

import pytest

from app.engine.race import BURST, race
from app.record.trace import Arm, Round


def arm(name: Arm, seconds: list[float], closed: list[Arm]) -> Generator[Round, None, None]:
    try:
        for index, duration in enumerate(seconds):
            yield Round(index, name, (), None, 0.0, duration, 0.0)
    finally:
        closed.append(name)


def test_the_arm_whose_clock_is_behind_goes_next() -> None:
    closed: list[Arm] = []
    arms = {"target": arm("target", [3, 3, 3], closed), "speculative": arm("speculative", [1, 1, 1, 1, 5], closed)}
    order = [round_.arm[0] for round_ in race(arms)]  # type: ignore[arg-type]
    assert sorted(order) == list("sssssttt")
    # whoever went was not ahead of the other, as long as both were running
    clocks = {"t": 0.0, "s": 0.0}
    left = {"t": 3, "s": 5}
    durations = {"t": iter([3, 3, 3]), "s": iter([1, 1, 1, 1, 5])}
    for name in order:
        other = "s" if name == "t" else "t"
        assert not left[other] or clocks[name] <= clocks[other]
        clocks[name] += next(durations[name])
        left[name] -= 1
    assert sorted(closed) == ["speculative", "target"]


def test_an_arm_goes_on_for_a_burst_and_is_then_waited_for() -> None:
    closed: list[Arm] = []
    arms: dict[Arm, Generator[Round, None, None]] = {
        "target": arm("target", [0.01] * 30, closed),
        "speculative": arm("speculative", [0.02] * 10, closed),
    }
    order = [(round_.arm, round_.seconds) for round_ in race(arms)]
    turns = [(name, sum(seconds for _, seconds in rounds)) for name, rounds in groupby(order, key=lambda each: each[0])]
    assert [name for name, _ in turns[:4]] == ["target", "speculative", "target", "speculative"]
    assert turns[0][1] == pytest.approx(BURST + 0.01)
    clocks = {"target": 0.0, "speculative": 0.0}
    for name, seconds in order[:25]:
        clocks[name] += seconds
        assert abs(clocks["target"] - clocks["speculative"]) <= BURST + 0.02 + 1e-9


def test_one_sequence_runs_the_arms_one_after_the_other() -> None:
    closed: list[Arm] = []
    arms = {"target": arm("target", [3, 3], closed), "speculative": arm("speculative", [1, 1], closed)}
    order = [round_.arm for round_ in race(arms, one_at_a_time=True)]  # type: ignore[arg-type]
    assert order == ["target", "target", "speculative", "speculative"]


def test_closing_the_race_closes_the_arms() -> None:
    closed: list[Arm] = []
    running = race({"target": arm("target", [1] * 9, closed), "speculative": arm("speculative", [1] * 9, closed)})
    for _ in range(3):
        next(running)
    running.close()
    assert sorted(closed) == ["speculative", "target"]
