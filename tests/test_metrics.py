"""Every figure against a value worked out by hand on the traces of `tests.support.traces`."""

from __future__ import annotations

import json

import pytest

from app.record import metrics, trace
from app.record.definitions import DEFINITIONS
from app.record.metrics import ArmTotals, Metrics
from app.record.trace import Request
from tests.support.pages import toy_session
from tests.support.traces import SPECULATIVE, arm_of, drafted, speculative_round, started, target_arm, texts
from tests.support.traces import trace as both_arms


def test_target_arm_figures() -> None:
    arm = Metrics(both_arms()).arms["target"]
    assert arm.tokens == 8
    assert arm.rounds == 7
    assert arm.ttft_s == pytest.approx(0.020)
    assert arm.tpot_s == pytest.approx(0.010)
    assert arm.tokens_per_s == pytest.approx(100)
    assert arm.mean_acceptance_length == 1.0
    assert arm.acceptance_rate is None
    assert arm.draft_acceptance_rate is None
    assert arm.acceptance_by_position == []
    assert arm.counts["target"] == 8


def test_speculative_arm_figures() -> None:
    arm = Metrics(both_arms()).arms["speculative"]
    assert arm.token_ids == [1, 2, 3, 4, 5, 6, 7, 2]
    assert arm.rounds == 3
    assert arm.ttft_s == pytest.approx(0.025)
    assert arm.tpot_s == pytest.approx((0.016 + 0.016 + 0.013) / 7)
    assert arm.acceptance_rate == pytest.approx(4 / 5)
    assert arm.draft_acceptance_rate == pytest.approx(4 / 6)
    assert arm.mean_acceptance_length == pytest.approx(7 / 3)
    assert arm.acceptance_by_position == pytest.approx([1.0, 0.5, 0.5])
    assert arm.counts == {"accepted": 4, "corrected": 1, "bonus": 1, "target": 2, "rejected": 1, "discarded": 1}
    assert arm.draft_seconds == pytest.approx(0.006)
    assert arm.verify_seconds == pytest.approx(0.036)
    assert arm.host_seconds == pytest.approx(0.003)
    assert arm.shares == pytest.approx({"draft": 6 / 45, "verify": 36 / 45, "host": 3 / 45})
    assert arm.finish_reason == "length"


def test_tokens_of_a_round_arrive_together() -> None:
    arm = Metrics(both_arms()).arms["speculative"]
    assert arm.arrivals == pytest.approx([0.025, *[0.041] * 4, *[0.057] * 2, 0.070])


def test_comparison_of_the_arms() -> None:
    figures = Metrics(both_arms())
    assert figures.speedup == pytest.approx(0.010 / (0.045 / 7))
    assert figures.first_divergence is None
    assert figures.agreed == 8
    assert figures.cost_ratio == pytest.approx(1 / 9)
    assert figures.verify_ratio == pytest.approx(12 / 9), "the tail's shorter window does not count"
    assert figures.total_variation == pytest.approx(1e-9)


def test_first_token_that_differs_is_the_divergence() -> None:
    figures = Metrics([started(), texts(), *target_arm(1, 2, 3, 6), *SPECULATIVE])
    assert figures.first_divergence == 3
    assert figures.agreed == 3


def test_cancelled_arm_that_is_a_prefix_does_not_diverge() -> None:
    figures = Metrics([started(), texts(), *target_arm(1, 2, 3, finish_reason=None), *SPECULATIVE])
    assert figures.first_divergence is None


def test_arm_that_stopped_by_itself_diverges_where_the_other_goes_on() -> None:
    figures = Metrics([started(), texts(), *target_arm(1, 2, 3, finish_reason="stop"), *SPECULATIVE])
    assert figures.first_divergence == 3


def test_accepted_stop_token_ends_the_arm_without_a_final() -> None:
    last = speculative_round(1, SPECULATIVE[1].drafted[:2], None, finish_reason="stop")  # type: ignore[union-attr]
    arm = Metrics([started(), texts(), SPECULATIVE[0], last]).arms["speculative"]
    assert arm.tokens == 3
    assert arm.mean_acceptance_length == 2.0


def test_figures_with_nothing_to_stand_on_are_none() -> None:
    figures = Metrics([started(), texts(), *target_arm(1)])
    arm = figures.arms["target"]
    assert arm.tpot_s is None
    assert arm.mean_acceptance_length is None
    assert arm.shares == {"draft": None, "verify": None, "host": None}
    assert figures.speedup is None
    assert figures.cost_ratio is None
    assert Metrics().first_divergence is None


def test_text_joins_split_characters_and_leaves_out_control_tokens() -> None:
    figures = Metrics([started(), texts(), *target_arm(1, 8, 9, 0)])
    assert figures.text("target") == "The é"
    assert figures.text("speculative") == ""


def test_summary_is_json_and_has_the_promised_fields() -> None:
    line = json.loads(json.dumps(metrics.summary(both_arms()), allow_nan=False))
    assert line["type"] == "summary"
    assert set(line["arms"]) == {"target", "speculative"}
    promised = {
        "tokens",
        "ttft_s",
        "tpot_s",
        "rounds",
        "acceptance_rate",
        "draft_acceptance_rate",
        "mean_acceptance_length",
        "acceptance_by_position",
        "text",
        "token_ids",
    }
    for arm in line["arms"].values():
        assert promised <= set(arm)
        assert arm["text"] == "The cat sat on a mat. cat"
    assert line["first_divergence"] is None
    assert line["speedup"] == pytest.approx(70 / 45)
    assert line["reason"] == "length"


def test_arm_that_did_not_run_is_absent() -> None:
    line = metrics.summary([event for event in both_arms() if arm_of(event) != "speculative"])
    assert set(line["arms"]) == {"target"}
    assert line["speedup"] is None


def test_live_and_finished_figures_are_the_same() -> None:
    live = Metrics()
    for event in both_arms():
        live.add(event)
    assert live.summary() == metrics.summary(both_arms())


def test_figures_survive_a_trace_file() -> None:
    again = trace.read(trace.write(both_arms()))
    assert metrics.summary(again) == metrics.summary(both_arms())


def test_every_definition_is_a_sentence() -> None:
    for term, text in DEFINITIONS.items():
        assert text.endswith("."), term


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" cat", "words"),
        ("don't", "words"),
        ("42", "digits"),
        (".", "punctuation"),
        ("—", "punctuation"),
        ("\n\n", "whitespace"),
        (" {", "code"),
        ("==", "code"),
        ("é", "words"),
        ("☃", "other"),
    ],
)
def test_kinds_of_tokens(text: str, kind: str) -> None:
    assert metrics.token_kind(text) == kind


def test_acceptance_by_kind_leaves_out_drafts_never_judged() -> None:
    stop = drafted(0, "rejected")
    events = [*both_arms()[:-1], speculative_round(4, (drafted(2, "accepted"), stop, drafted(7, "discarded")), None)]
    assert metrics.acceptance_by_kind(events) == {"words": (5, 6), "control": (0, 1)}


def test_totals_are_ratios_of_sums_and_add_up() -> None:
    session = toy_session()
    runs = [Metrics(session.run(Request("hello", max_tokens=12 + seed, k=4))) for seed in range(3)]
    arms = [run.arms["speculative"] for run in runs]
    total, first, rest = ArmTotals(), ArmTotals(), ArmTotals()
    for place, arm in enumerate(arms):
        total.add(arm)
        (rest if place else first).add(arm)
    assert total.runs == 3
    assert total.mean_acceptance_length == sum(arm.emitted for arm in arms) / sum(arm.rounds for arm in arms)
    assert total.draft_acceptance_rate == sum(arm.accepted for arm in arms) / sum(arm.drafted for arm in arms)
    kept = [sum(arm.accepted_at[place] for arm in arms) for place in range(len(total.drafted_at))]
    drafted = [sum(arm.drafted_at[place] for arm in arms) for place in range(len(total.drafted_at))]
    assert total.acceptance_by_position == [a / b for a, b in zip(kept, drafted, strict=True)]
    assert total.acceptance_by_position[0] > 0
    both = first + rest
    assert (both.judged, both.drafted_at, both.verify_passes) == (total.judged, total.drafted_at, total.verify_passes)
    assert both.shares == pytest.approx(total.shares)
    assert both.draft_seconds == pytest.approx(total.draft_seconds)
    assert both.tpot_s == pytest.approx(total.tpot_s)
    assert ArmTotals().tpot_s is ArmTotals().acceptance_rate is None
