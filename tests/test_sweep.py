"""The sweep on toys whose costs are known, and the what-if of one run held against it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from app.errors import RequestError
from app.record import sweep_words, theory
from app.record.limits import AUTO, K
from app.record.metrics import Metrics
from app.record.standing import Sweep
from app.record.sweep import REPEATS, Step, sweep
from app.record.trace import Event, Request, Round, RunFinished, RunStarted, Sampling
from app.record.variants import Variant, labels, variants
from tests.support import traces
from tests.support.pages import toy_session
from tests.support.simulated import SimulatedSession

KS = (2, 3, 4, 5, 8)


@cache
def swept(max_tokens: int = 1500, temperature: float = 1.0, ks: tuple[int, ...] = KS, **toy: Any) -> Sweep:
    """A sweep on toys: a target pass of w rows takes 10 ms + 0.5 ms a row, a draft pass 1 ms; one sweep for
    all who ask the same."""
    session = SimulatedSession(lambda rows: 0.0095 + 0.0005 * rows, 0.001, **toy)
    request = Request(max_tokens=max_tokens, sampling=Sampling(temperature=temperature, seed=3))
    offered = variants(request, ks=ks)
    *_, last = sweep(session, request, ["abc"], offered, repeats=1)
    return last.sweep


def windows(*ks: K) -> tuple[Variant, ...]:
    return variants(Request(sampling=Sampling(temperature=1.0)), ks=ks)


@pytest.mark.slow
@pytest.mark.parametrize("agreement", ["good", "bad"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_run_tells_what_smaller_windows_would_have_measured(agreement: str, temperature: float) -> None:
    found = swept(agreement=agreement, temperature=temperature, vocab_size=16, seed=2)
    guessed = {other.k: other for other in found.what_if}
    for point in found.points:
        assert guessed[point.variant.width].expected_length == pytest.approx(point.mean_acceptance_length, rel=0.05)
        assert guessed[point.variant.width].tpot_s == pytest.approx(point.tpot_s, rel=0.05)


def test_where_every_draft_is_kept_all_is_known() -> None:
    found = swept(agreement="same", max_tokens=241, temperature=0.0)
    assert found.acceptance_rate == 1.0
    assert found.target_tpot_s == pytest.approx(0.010)
    assert found.cost_ratio == pytest.approx(0.1)
    for point in found.points:
        k = point.variant.width
        cost = 0.0095 + 0.0005 * k + 0.001 * (k - 1)
        assert point.verify_ratio == pytest.approx(0.95 + 0.05 * k)
        assert point.predicted_speedup == pytest.approx(0.010 * k / cost)
        # but for the prefill's own token and the last window
        assert point.speedup == pytest.approx(point.predicted_speedup, rel=0.02)
        assert point.mean_acceptance_length == pytest.approx(k, rel=0.02)
        assert point.identical == point.runs == 1
    assert found.best is not None
    assert found.best.variant.k == 8


def test_the_sums_are_those_of_the_runs() -> None:
    session = SimulatedSession(agreement="good", seed=1)
    runs = []
    run = session.run

    def watched(request: Request) -> Any:
        for event in run(request):
            runs.append(event)
            yield event

    session.run = watched  # type: ignore[method-assign]
    *_, last = sweep(session, Request(max_tokens=60), ["ab", "cd", "ef"], windows(4), repeats=1)
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
    assert point.interval is not None
    low, high = point.interval
    assert low <= point.speedup <= high


def test_a_useless_draft_is_said_to_be_one() -> None:
    found = swept(agreement="adversarial", max_tokens=60, temperature=0.0)
    assert found.best is not None
    assert found.best.speedup < 1
    assert "Nothing pays here" in sweep_words.sentences(found)[0]


def test_words_name_the_best_and_the_cost_of_the_others() -> None:
    found = swept(agreement="same", max_tokens=241, temperature=0.0)
    best, chance, losses, formula = sweep_words.sentences(found)
    assert "Each was run once" in chance
    assert best.startswith("k = 8 is the best of these:")
    assert found.best is not None
    assert f"{found.best.speedup:.2f} times as fast" in best
    worst = found.points[0]
    assert losses.index("k = 5") < losses.index("k = 2")
    assert f"{100 * found.regret(worst):.0f}% (k = 2)" in losses
    assert "formula is off by" in formula


def test_steps_count_the_runs_and_take_the_windows_in_turn() -> None:
    session = toy_session(agreement="same")
    every = list(sweep(session, Request(max_tokens=8), ["hello", "good day"], windows(2, 3, 4), repeats=1))
    shares = [step.share for step in every]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    steps = [step for step in every if not step.within]
    assert [(step.done, step.total) for step in steps] == [(n, 6) for n in range(7)]
    assert [step.doing.split(":")[0] for step in steps] == ["k = 2", "k = 3", "k = 4", "k = 3", "k = 4", "k = 2", ""]


def test_closing_the_sweep_frees_the_device() -> None:
    session = toy_session(agreement="same")
    steps = sweep(session, Request(max_tokens=8), ["hello"], windows(2, 3))
    next(steps)
    next(steps)
    steps.close()
    assert session._lock.acquire(blocking=False)
    assert session.loaded.target.open_sequences == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prompts", "ks", "fault"),
    [
        ([], [2], "no prompt to sweep"),
        (["hi"], [2, 99], "k = 99 cannot be swept"),
        (["hi"], [1, 2], "k = 1 cannot be swept"),
        ([" "], [2], "prompt is empty"),
        (["hi", "x" * 400], [2], "prompt is 402 tokens long"),
    ],
)
def test_what_cannot_be_swept_is_a_sentence(prompts: list[str], ks: list[int], fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        list(sweep(toy_session(), Request(max_tokens=8), prompts, windows(*ks)))


def test_only_compiled_windows_are_swept() -> None:
    with pytest.raises(RequestError, match="k = 3 was not compiled; choose among 2, 4"):
        list(sweep(toy_session(windows=(2, 4)), Request(max_tokens=8), ["hi"], windows(2, 3, 4)))


def test_a_run_that_fails_ends_the_sweep_with_its_sentence() -> None:
    steps: list[Step] = []
    with pytest.raises(RequestError, match="not finite"):
        steps.extend(sweep(toy_session(broken_at=9), Request(max_tokens=20), ["hello"], windows(2)))


def test_json_holds_what_the_table_shows() -> None:
    found = swept(agreement="good", max_tokens=100)
    data = json.loads(json.dumps(found.to_json()))
    assert [point["k"] for point in data["points"]] == list(KS)
    assert data["best_k"] == max(data["points"], key=lambda point: point["speedup"])["k"]
    assert min(point["regret"] for point in data["points"]) == 0
    assert len(list(sweep_words.table(found))) == 1 + len(KS)
    assert [other["pair"]["target"] for other in data["elsewhere"]] == [pair.target for pair in theory.PUBLISHED]


def test_elsewhere_is_the_formula_at_the_published_latencies() -> None:
    for other in theory.elsewhere(0.8):
        best = max(theory.predicted_speedup(0.8, k, other.pair.cost_ratio) for k in range(2, 17))
        assert other.speedup == pytest.approx(best)
        assert other.tpot_ms == pytest.approx(other.pair.target_ms / best)


# --- variants ---


def test_variants_are_every_combination_of_what_is_listed() -> None:
    request = Request(k=3)
    offered = variants(request, acceptors=["rejection", "block"], temperatures=[0.0, 1.0])
    assert [(each.k, each.acceptor, each.temperature) for each in offered] == [
        (3, "rejection", 0.0),
        (3, "rejection", 1.0),
        (3, "block", 0.0),
        (3, "block", 1.0),
    ]
    assert list(labels(offered).values()) == ["rejection, T = 0", "rejection, T = 1", "block, T = 0", "block, T = 1"]
    assert [each.k for each in variants(request, ks=[AUTO, 8, 2, 8])] == [2, 8, AUTO]
    assert list(labels(variants(request)).values()) == ["k = 3"]
    asked = offered[3].request(replace(request, arms="target"), "Hi")
    assert (asked.prompt, asked.acceptor, asked.sampling.temperature, asked.arms) == ("Hi", "block", 1.0, "both")


def test_acceptors_and_drafters_are_swept_on_the_real_loop() -> None:
    session = toy_session(agreement="good", seed=2)
    request = Request(max_tokens=24, k=3, sampling=Sampling(temperature=1.0, seed=1))
    offered = variants(request, acceptors=["exact", "lenient"], drafters=["draft", "lookup"])
    *_, last = sweep(session, request, ["la la la la"], offered)
    points = {point.label: point for point in last.sweep.points}
    assert set(points) == {"exact, draft", "exact, lookup", "lenient, draft", "lenient, lookup"}
    assert all(point.runs == REPEATS for point in points.values())
    assert (points["exact, draft"].lossless, points["lenient, draft"].lossless) == (True, False)
    assert points["exact, draft"].identical == REPEATS
    assert last.sweep.what_if == []


def test_auto_is_swept_beside_fixed_windows() -> None:
    *_, last = sweep(toy_session(agreement="same"), Request(max_tokens=24), ["hello"], windows(2, AUTO), repeats=2)
    fixed, auto = last.sweep.points
    assert (auto.label, auto.predicted_speedup, fixed.predicted_speedup is None) == ("k = auto", None, False)


def test_pairs_are_loaded_once_a_repeat() -> None:
    offered = variants(Request(), ks=[2, 3], pairs=["int8", "bf16"])
    loaded: list[str] = []
    session = toy_session(agreement="same")
    *_, last = sweep(session, Request(max_tokens=8), ["a", "b"], offered, 2, loaded.append)
    assert loaded == ["int8", "bf16", "int8", "bf16"]
    assert [point.label for point in last.sweep.points] == ["int8, k = 2", "int8, k = 3", "bf16, k = 2", "bf16, k = 3"]
    assert last.total == 2 * 2 * 4


# --- one basis, and how sure it is ---


def timed(k: K, target_ms: float, ms: float) -> list[Event]:
    """A run of two tokens after the first: the target took target_ms each, the window ms each."""
    target = [Round(i, "target", (), traces.final(1, "target"), 0.0, target_ms / 1000, 0.0) for i in range(3)]
    draft = traces.drafted(2, "accepted")
    arm = [
        Round(0, "speculative", (), traces.final(1, "target"), 0.0, 0.01, 0.0),
        Round(1, "speculative", (draft,), traces.final(5, "bonus"), 0.0, 2 * ms / 1000, 0.0, k=2),
    ]
    return [traces.started(k=k), traces.texts(), *target, *arm, RunFinished("length")]


def measured(*turns: dict[int, tuple[float, float]]) -> Sweep:
    """Of each turn, by window: milliseconds of the target alone, and of the window."""
    offered = {each.width: each for each in variants(Request(), ks=turns[0])}
    found = Sweep(list(offered.values()))
    for turn, times in enumerate(turns):
        for k, (target_ms, ms) in times.items():
            found.add(timed(k, target_ms, ms), offered[k], turn)
    return found


def test_the_fastest_is_the_best_whatever_its_own_target_arm_met() -> None:
    """k = 3 met a slow target, so its own ratio looks better; k = 4 takes less time."""
    found = measured(*[{3: (14.0, 5.0), 4: (10.0, 4.5)}] * 3)
    assert found.best is not None
    assert found.best.variant.k == 4
    slower, best = found.points
    assert best.speedup == pytest.approx(12.0 / 4.5)
    assert slower.speedup == pytest.approx(12.0 / 5.0)
    assert found.regret(slower) == pytest.approx(5.0 / 4.5 - 1)
    assert slower.target_tpot_s == best.target_tpot_s == pytest.approx(0.012)
    assert found.close(slower) is False


def test_windows_that_the_runs_do_not_separate_are_too_close_to_call() -> None:
    found = measured({3: (10, 5.0), 4: (10, 5.2)}, {3: (10, 5.3), 4: (10, 5.0)}, {3: (10, 5.1), 4: (10, 5.3)})
    (close,) = found.too_close
    assert close.variant.k == 4
    assert sweep_words.sentences(found)[0].startswith("Too close to call between k = 3 and k = 4: 1.95 and 1.94 times")
    assert "too close" in list(sweep_words.table(found))[2]


def test_a_slow_minute_that_falls_on_all_does_not_blur_the_ranking() -> None:
    slow_minutes = (1.0, 1.6, 1.2, 2.0)
    found = measured(*[{3: (slow * 10, slow * 5.0), 4: (slow * 10, slow * 5.3)} for slow in slow_minutes])
    assert found.too_close == []
    assert found.close(found.points[1]) is False
    assert sweep_words.sentences(found)[0].startswith(
        "k = 3 is the best of these: 2.00 times as fast (95%: 2.00 to 2.00)"
    )


def test_one_run_of_each_says_nothing_of_chance() -> None:
    found = measured({3: (10, 5.0), 4: (10, 5.01)})
    assert [point.interval for point in found.points] == [None, None]
    assert found.close(found.points[1]) is None
    assert any("Each was run once" in sentence for sentence in sweep_words.sentences(found))


def test_a_lossy_winner_is_said_to_be_one() -> None:
    offered = variants(Request(k=2), acceptors=["rejection", "lenient"])
    found = Sweep(offered)
    for turn in range(3):
        for variant, ms, lossless in ((offered[0], 6.0, True), (offered[1], 5.0, False)):
            start, *rest = timed(2, 10.0, ms)
            assert isinstance(start, RunStarted)
            found.add([replace(start, lossless=lossless), *rest], variant, turn)
    told = sweep_words.sentences(found)
    assert told[0].startswith("lenient is the best of these")
    assert "lenient is lossy" in told[1]
    assert "the best lossless one is rejection, 1.67 times as fast" in told[1]


def test_csv_has_a_line_a_variant() -> None:
    found = measured(*[{3: (10.0, 5.0), 4: (10.0, 6.0)}] * 2)
    rows = list(csv.DictReader(io.StringIO(sweep_words.to_csv(found))))
    assert [(row["k"], row["standing"]) for row in rows] == [("3", "best"), ("4", "+20%")]
    assert float(rows[0]["tpot_ms"]) == pytest.approx(5.0)
    assert float(rows[0]["speedup_low"]) == pytest.approx(2.0)
    assert set(rows[0]) == set(sweep_words.COLUMNS)
