"""The sweep on toys whose costs are known, and the what-if of one run held against it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import RequestError
from app.record import sweep as sweeping
from app.record import theory
from app.record.metrics import Metrics
from app.record.sweep import Step, Sweep, sweep
from app.record.trace import Request, Sampling
from tests.support.pages import toy_session
from tests.support.simulated import SimulatedSession

KS = (2, 3, 4, 5, 8)


def swept(max_tokens: int = 1500, temperature: float = 1.0, ks: tuple[int, ...] = KS, **toy: Any) -> Sweep:
    """A sweep on toys: a target pass of w rows takes 10 ms + 0.5 ms a row, a draft pass 1 ms."""
    session = SimulatedSession(lambda rows: 0.0095 + 0.0005 * rows, 0.001, **toy)
    request = Request(max_tokens=max_tokens, sampling=Sampling(temperature=temperature, seed=3))
    *_, last = sweep(session, request, ["abc"], ks)
    return last.sweep


@pytest.mark.parametrize("agreement", ["good", "bad"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_run_tells_what_smaller_windows_would_have_measured(agreement: str, temperature: float) -> None:
    found = swept(agreement=agreement, temperature=temperature, vocab_size=16, seed=2)
    guessed = {other.k: other for other in found.what_if}
    for point in found.points:
        assert guessed[point.k].expected_length == pytest.approx(point.mean_acceptance_length, rel=0.05)
        assert guessed[point.k].tpot_s == pytest.approx(point.tpot_s, rel=0.05)


def test_where_every_draft_is_kept_all_is_known() -> None:
    found = swept(agreement="same", max_tokens=481, temperature=0.0)
    assert found.acceptance_rate == 1.0
    assert found.target_tpot_s == pytest.approx(0.010)
    assert found.cost_ratio == pytest.approx(0.1)
    for point in found.points:
        k = point.k
        cost = 0.0095 + 0.0005 * k + 0.001 * (k - 1)
        assert point.verify_ratio == pytest.approx(0.95 + 0.05 * k)
        assert point.predicted_speedup == pytest.approx(0.010 * k / cost)
        # but for the prefill's own token and the last window
        assert point.speedup == pytest.approx(point.predicted_speedup, rel=0.02)
        assert point.mean_acceptance_length == pytest.approx(k, rel=0.02)
        assert point.identical == point.runs == 1
    assert found.best is not None
    assert found.best.k == 8


def test_the_sums_are_those_of_the_runs() -> None:
    session = SimulatedSession(agreement="good", seed=1)
    runs = []
    run = session.run

    def watched(request: Request) -> Any:
        for event in run(request):
            runs.append(event)
            yield event

    session.run = watched  # type: ignore[method-assign]
    *_, last = sweep(session, Request(max_tokens=60), ["ab", "cd", "ef"], [4])
    (point,) = last.sweep.points
    starts = [place for place, event in enumerate(runs) if hasattr(event, "request")]
    each = [Metrics(runs[a:b]) for a, b in zip(starts, [*starts[1:], len(runs)], strict=True)]
    assert point.runs == len(each) == 3
    arms = [metrics.arms["speculative"] for metrics in each]
    assert point.tpot_s == pytest.approx(
        sum((arm.tpot_s or 0) * (arm.tokens - 1) for arm in arms) / sum(arm.tokens - 1 for arm in arms)
    )
    assert point.mean_acceptance_length == pytest.approx(
        sum(arm.emitted for arm in arms) / sum(arm.rounds for arm in arms)
    )
    low, high = point.quartiles
    assert low <= sorted(metrics.speedup or 0 for metrics in each)[1] <= high


def test_a_useless_draft_is_said_to_be_one() -> None:
    found = swept(agreement="adversarial", max_tokens=200, temperature=0.0)
    assert found.best is not None
    assert found.best.speedup < 1
    assert "No window pays here" in sweeping.sentences(found)[0]


def test_words_name_the_best_and_the_cost_of_the_others() -> None:
    found = swept(agreement="same", max_tokens=481, temperature=0.0)
    best, losses, formula = sweeping.sentences(found)
    assert best.startswith("k = 8 is the best of these:")
    assert found.best is not None
    assert f"{found.best.speedup:.2f} times as fast" in best
    worst = found.points[0]
    assert losses.index("k = 5") < losses.index("k = 2")
    assert f"{100 * found.regret(worst):.0f}% (k = 2)" in losses
    assert "formula is off by" in formula


def test_steps_count_the_runs_and_take_the_windows_in_turn() -> None:
    session = toy_session(agreement="same")
    every = list(sweep(session, Request(max_tokens=8), ["hello", "good day"], [2, 3, 4]))
    shares = [step.share for step in every]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    steps = [step for step in every if not step.within]
    assert [(step.done, step.total) for step in steps] == [(n, 6) for n in range(7)]
    assert [step.doing.split(":")[0] for step in steps] == ["k = 2", "k = 3", "k = 4", "k = 3", "k = 4", "k = 2", ""]


def test_closing_the_sweep_frees_the_device() -> None:
    session = toy_session(agreement="same")
    steps = sweep(session, Request(max_tokens=8), ["hello"], [2, 3])
    next(steps)
    next(steps)
    steps.close()
    assert session._lock.acquire(blocking=False)
    assert session.loaded.target.open_sequences == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prompts", "ks", "fault"),
    [
        ([], [2], "no prompt to sweep"),
        (["hi"], [], "No window cannot be swept"),
        (["hi"], [2, 99], "k = 99 cannot be swept"),
        (["hi"], [1, 2], "k = 1 cannot be swept"),
        ([" "], [2], "prompt is empty"),
    ],
)
def test_what_cannot_be_swept_is_a_sentence(prompts: list[str], ks: list[int], fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        list(sweep(toy_session(), Request(max_tokens=8), prompts, ks))


def test_only_compiled_windows_are_swept() -> None:
    with pytest.raises(RequestError, match="k = 3 was not compiled; choose among 2, 4"):
        list(sweep(toy_session(windows=(2, 4)), Request(max_tokens=8), ["hi"], [2, 3, 4]))


def test_a_run_that_fails_ends_the_sweep_with_its_sentence() -> None:
    steps: list[Step] = []
    with pytest.raises(RequestError, match="not finite"):
        steps.extend(sweep(toy_session(broken_at=9), Request(max_tokens=20), ["hello"], [2]))


def test_json_holds_what_the_table_shows() -> None:
    found = swept(agreement="good", max_tokens=100)
    data = json.loads(json.dumps(found.to_json()))
    assert [point["k"] for point in data["points"]] == list(KS)
    assert data["best_k"] == max(data["points"], key=lambda point: point["speedup"])["k"]
    assert min(point["regret"] for point in data["points"]) == 0
    assert len(list(sweeping.table(found))) == 1 + len(KS)
    assert [other["pair"]["target"] for other in data["elsewhere"]] == [pair.target for pair in theory.PUBLISHED]


def test_elsewhere_is_the_formula_at_the_published_latencies() -> None:
    for other in theory.elsewhere(0.8):
        best = max(theory.predicted_speedup(0.8, k, other.pair.cost_ratio) for k in range(2, 17))
        assert other.speedup == pytest.approx(best)
        assert other.tpot_ms == pytest.approx(other.pair.target_ms / best)
