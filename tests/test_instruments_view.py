"""The pictures of the Instruments tab hold the record's own figures."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from app.errors import RequestError, TraceError
from app.record import along_answer, calibrate, card_of, kept_per_round
from app.record.trace import Request, Sampling, write
from app.ui.instruments import beside, judged
from tests.support import traces
from tests.support.pages import toy_session


def test_a_run_is_judged_by_the_records_figures() -> None:
    events = list(
        toy_session(agreement="good", seed=2).run(Request("hello", max_tokens=60, k=4, sampling=Sampling(1.0)))
    )
    answer = json.loads(json.dumps(judged("".join(write(events)))))
    calibration, histogram, along = (each["figure"]["data"] for each in answer["pictures"])
    assert calibration[1]["x"] == pytest.approx([part.confidence for part in calibrate(events)])
    assert calibration[1]["y"] == pytest.approx([part.acceptance for part in calibrate(events)])
    assert histogram[0]["y"] == kept_per_round(events)
    places = along_answer(events)
    assert [line["name"] for line in along] == ["acceptance", "entropy of the target", "divergence of the draft"]
    assert along[0]["y"] == [place.acceptance for place in places]
    assert along[1]["y"] == [place.entropy for place in places]
    assert answer["card"] == json.loads(json.dumps(asdict(card_of(events))))


def test_a_trace_of_version_1_has_the_pictures_it_can_have() -> None:
    pictures = {each["title"]: each for each in judged("".join(write(traces.trace())))["pictures"]}
    assert "recorded before entropy" in pictures["Along the answer"]["note"]
    assert len(pictures["Along the answer"]["figure"]["data"]) == 1


def test_a_run_of_the_target_alone_has_no_picture_and_a_card() -> None:
    alone = [traces.started(arms="target"), traces.texts(), *traces.target_arm(1, 2, 3)]
    answer = judged("".join(write(alone)))
    assert (answer["pictures"], answer["advice"]) == ([], [])
    assert answer["card"]["figures"]["tokens"] == 3.0


def test_cards_are_checked_and_few() -> None:
    card = json.loads(json.dumps(asdict(card_of(traces.trace()))))
    answer = beside([card, card])
    assert answer["partings"][0]["token"] is None
    assert [each["title"] for each in answer["pictures"]] == ["Time per output token", "Acceptance by place"]
    with pytest.raises(RequestError, match="At most 4 runs"):
        beside([card] * 5)
    with pytest.raises(RequestError, match="pin two or more"):
        beside([card])
    with pytest.raises(TraceError, match="wrong value at Card"):
        beside([card, {**card, "tpot": 3}])
