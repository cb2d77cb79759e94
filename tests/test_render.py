"""What the browser is given of a trace, and the page a trace becomes."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.record import metrics, trace
from app.record.limits import AUTO, K
from app.record.pieces import join_pieces, piece_text
from app.record.trace import Event, Round, RunFinished, State, TokenTexts
from app.ui import render
from app.ui.assets import json_for_html
from app.ui.export import export_html
from tests.support.traces import SPECULATIVE, drafted, final, speculative_round, started, target_arm, texts
from tests.support.traces import trace as both_arms


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        (" cat", "␣cat"),
        ("\n\t", "↵⇥"),
        ("é", "é"),
        (piece_text(b"\xc3"), "‹C3›"),
        (piece_text(b" \xa9"), "‹20›‹A9›"),
        ("", "‹empty›"),
    ],
)
def test_label_shows_everything_of_a_token(piece: str, shown: str) -> None:
    assert render.label(piece) == shown


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.data())
def test_split_characters_appear_once_and_whole(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    ids = list(range(len(pieces)))
    events: list[Event] = [
        started(arms="target"),
        TokenTexts({id_: piece_text(piece) for id_, piece in zip(ids, pieces, strict=True)}),
        *target_arm(*ids),
    ]
    shown = [part for item in render.items(events) for part in item.get("texts", [])]
    assert "".join(shown) == text
    assert len(shown) == len(pieces), "every token keeps its own place"


def test_broken_bytes_become_replacement_characters_as_in_the_summary() -> None:
    events: list[Event] = [started(arms="target"), TokenTexts({1: piece_text(b"a\xff"), 2: "b"}), *target_arm(1, 2)]
    shown = "".join(part for item in render.items(events) for part in item.get("texts", []))
    assert shown == join_pieces([piece_text(b"a\xff"), "b"]) == metrics.summary(events)["arms"]["target"]["text"]


def test_items_carry_the_very_lines_of_the_trace_file() -> None:
    events = both_arms()
    assert [item["line"] + "\n" for item in render.items(events)] == list(trace.write(events))


def test_items_are_json_without_lone_surrogates() -> None:
    text = json.dumps(render.items(both_arms()), ensure_ascii=False, allow_nan=False)
    assert text.encode("utf-8")


def test_figures_after_the_last_round_are_those_of_the_summary() -> None:
    summary = metrics.summary(both_arms())["arms"]
    for arm in ("target", "speculative"):
        last = [item for item in render.items(both_arms()) if json.loads(item["line"]).get("arm") == arm][-1]
        for name, value in last["figures"].items():
            assert value == summary[arm][name], name


def test_refused_drafts_have_their_text() -> None:
    item = next(i for i in render.items(both_arms()) if i.get("drafts") == [" mat", " a", " on"])
    assert item["texts"] == [" mat", "."]


def test_trace_that_breaks_off_counts_as_cancelled() -> None:
    broken = both_arms()[:-3]
    last = render.items(broken)[-1]
    assert json.loads(last["line"])["reason"] == "cancelled"
    assert last["verdict"]["text"].startswith("Stopped early: so far the same")


def test_identical_text_is_said_plainly() -> None:
    assert render.items(both_arms())[-1]["verdict"] == {
        "kind": "same",
        "text": "The same 8 tokens, word for word, in 4 passes instead of 8: 1.6 times as fast.",
    }


def _verdict(*events: Event) -> dict[str, str]:
    verdict: dict[str, str] = render.verdict(metrics.Metrics(events))
    return verdict


def _different(**changes: object) -> str:
    import dataclasses

    temperature = float(str(changes.pop("temperature", 0.0)))
    start = dataclasses.replace(started(temperature=temperature), **changes)  # type: ignore[arg-type]
    verdict = _verdict(start, texts(), *target_arm(1, 2, 6, 7), *SPECULATIVE, RunFinished("length"))
    assert verdict["kind"] == "different"
    pace, sentence = verdict["text"].split(" The texts part at token 3. ")
    assert "the target alone 4 in 4" in pace
    return sentence


def test_each_divergence_has_its_own_reason() -> None:
    assert "is lossy" in _different(lossless=False)
    upstream = _different(lossless=False, engine="upstream")
    assert "upstream's own loop" in upstream
    assert "lossy" not in upstream
    assert "not the same draws" in _different(temperature=0.8)
    assert "fault worth reporting" in _different()
    assert "fault worth reporting" in _different(temperature=0.8, same_text=True)
    near_tie = _different(bit_identical=False)
    assert "near tie" in near_tie
    assert "'␣mat'" in near_tie
    assert "'␣sat'" in near_tie
    measured = dataclasses.replace(started().target, row_difference=3e-5)
    assert "on the window, here by up to 3e-05, so" in _different(bit_identical=False, target=measured)


def test_one_arm_and_errors_have_verdicts() -> None:
    assert _verdict(started(arms="target"), texts(), *target_arm(1, 2), RunFinished("length")) == {
        "kind": "one",
        "text": "2 tokens in 2 passes, 10.0 ms a token; run both arms to compare.",
    }
    failed = _verdict(started(), RunFinished("error", "The logits are NaN; use f32."))
    assert failed == {"kind": "error", "text": "The logits are NaN; use f32."}


def test_analysis_counts_kinds_of_the_judged_drafts() -> None:
    analysis = render.items(both_arms())[-1]["analysis"]
    kinds = {kind["kind"]: (kind["accepted"], kind["judged"]) for kind in analysis["kinds"]}
    assert kinds == {"words": (4, 5)}


def test_advice_follows_from_the_run() -> None:
    def advice(*states: State, k: K = 4) -> str:
        last = final(5, "bonus" if set(states) == {"accepted"} else "corrected")
        window = speculative_round(1, tuple(drafted(2, state) for state in states), last)
        events = [started(k=k), texts(), *target_arm(1, 2, 3, 4, 5), SPECULATIVE[0], window, RunFinished("length")]
        found: str = render.items(events)[-1]["analysis"]["advice"]
        return found

    # 12 ms verify, 3 drafts and 1 host for one token; with k = 2 the verify lies a third of the way from 9 to 12
    refused = advice("rejected", "discarded", "discarded")
    assert "k = 2 would take about 12.0 ms a token instead of 16.0" in refused
    assert "a longer one than k = 4 may pay" in advice("accepted", "accepted", "accepted")
    assert not advice("rejected", "discarded", "discarded", k=AUTO), "it chose its windows itself"
    assert not render.items([started(arms="target"), texts(), *target_arm(1, 2), RunFinished("length")])[-1][
        "analysis"
    ]["advice"]


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def _hostile_trace() -> list[Event]:
    one = Round(0, "target", (), final(1, "target"), 0.0, 0.01, 0.0, finish_reason="length")
    return [started(arms="target"), TokenTexts({1: HOSTILE}), one, RunFinished("length")]


def test_exported_page_keeps_model_text_as_data() -> None:
    page = export_html(_hostile_trace())
    assert HOSTILE not in page
    assert "<img src=x" not in page
    embedded = re.search(r'<script type="application/json" id="pg-trace">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1]) == render.items(_hostile_trace())


def test_exported_page_asks_no_other_host() -> None:
    page = export_html(both_arms())
    assert not re.search(r"""(src|href|url\(|import)\s*[=(]?\s*["']?(https?:)?//""", page)
    assert "default-src 'none'" in page


@given(st.text())
def test_json_for_html_reads_back_and_cannot_end_a_script(text: str) -> None:
    encoded = json_for_html({"text": text})
    assert "<" not in encoded
    assert json.loads(encoded) == {"text": text}
