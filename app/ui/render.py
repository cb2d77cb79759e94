"""A trace as the page shows it: pure functions from events to JSON for the browser.

The browser gets every event as the very line of the trace file, and beside it what it must not work out for
itself: the text each token adds, the figures after each round (`app.record.metrics`), and sentences. The scripts in
`assets/` only draw. Text of models and people travels as data and is drawn as text, never as HTML.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from app.record import conversation, theory
from app.record.advice import window_advice
from app.record.chosen import chosen_windows
from app.record.metrics import ArmMetrics, Metrics, acceptance_by_kind
from app.record.pieces import join_pieces
from app.record.trace import (
    Arm,
    Event,
    Round,
    RunFinished,
    RunStarted,
    TokenTexts,
    dumps,
)

Item = dict[str, Any]

_VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})


def label(piece: str) -> str:
    """A token by itself, everything visible: spaces and line ends as signs, bytes of a split character in hex."""
    if any("\udc80" <= character <= "\udcff" for character in piece):
        raw = piece.encode("utf-8", "surrogateescape")
        try:
            return raw.decode("utf-8").translate(_VISIBLE)
        except UnicodeDecodeError:
            return "".join(chr(byte) if 0x20 < byte < 0x7F else f"‹{byte:02X}›" for byte in raw)
    return piece.translate(_VISIBLE) or "‹empty›"


class Renderer:
    """Turns the events of one run, in order, into items for the page. Constant work for each token."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.events: list[Event] = []
        self._decoders = {arm: codecs.getincrementaldecoder("utf-8")("replace") for arm in ("target", "speculative")}

    def item(self, event: Event) -> Item:
        """The event's line of the trace file, and what the page shows of it."""
        self.metrics.add(event)
        self.events.append(event)
        item: Item = {"line": dumps(event)}
        if isinstance(event, TokenTexts):
            item["labels"] = {str(id_): label(piece) for id_, piece in event.pieces.items()}
        elif isinstance(event, Round):
            item |= self._round(event)
        elif isinstance(event, RunFinished):
            item["verdict"] = verdict(self.metrics)
            item["analysis"] = analysis(self.metrics, self.events)
        return item

    def _round(self, round_: Round) -> Item:
        arm = self.metrics.arms[round_.arm]
        return {
            "texts": [self._text(round_.arm, id_) for id_ in round_.token_ids],
            "drafts": [join_pieces([self.metrics.pieces.get(token.id, "")]) for token in round_.drafted],
            "clock": arm.seconds,
            "figures": figures(arm),
            "agreed": self.metrics.agreed,
            "diverged": self.metrics.first_divergence,
        }

    def _text(self, arm: Arm, id_: int) -> str:
        """What the token adds to the arm's text: a split character appears with the token that completes it."""
        piece = self.metrics.pieces.get(id_, "").encode("utf-8", "surrogateescape")
        return self._decoders[arm].decode(piece)


def items(trace: Iterable[Event]) -> list[Item]:
    """A whole trace for the page. One that breaks off (a page closed during its run) counts as cancelled."""
    renderer = Renderer()
    shown = [renderer.item(event) for event in trace]
    if shown and renderer.metrics.reason is None:
        shown.append(renderer.item(RunFinished("cancelled")))
    return shown


def figures(arm: ArmMetrics) -> Item:
    """What the page's headline and legend say of an arm at this moment."""
    return {
        "tokens": arm.tokens,
        "rounds": arm.rounds,
        "ttft_s": arm.ttft_s,
        "tpot_s": arm.tpot_s,
        "tokens_per_s": arm.tokens_per_s,
        "mean_acceptance_length": arm.mean_acceptance_length,
        "acceptance_rate": arm.acceptance_rate,
        "draft_acceptance_rate": arm.draft_acceptance_rate,
        "acceptance_by_position": arm.acceptance_by_position,
        "total_variation": arm.total_variation,
        "counts": dict(arm.counts),
    }


def verdict(metrics: Metrics) -> Item:
    """What the finished run shows, in words: {"kind": same | different | one | error, "text": sentence}."""
    started = metrics.started
    if metrics.reason == "error":
        return {"kind": "error", "text": metrics.message or "The run ended by an error; see the server's log."}
    if started is None or len(metrics.arms) < 2:
        return {"kind": "one", "text": _one_arm(metrics)}
    full = _full(metrics)
    at = metrics.first_divergence
    stopped = metrics.reason == "cancelled"
    if at is not None:
        return {"kind": "different", "text": f"{_pace(metrics)} {_parted(started, metrics, at)}{full}"}
    tokens = _count(metrics.agreed, "token")
    if stopped:
        return {"kind": "same", "text": f"Stopped early: so far the same {tokens}, word for word."}
    speculative, target = (_passes(metrics.arms[arm]) for arm in ("speculative", "target"))
    in_passes = f"in {_count(speculative, 'pass')} instead of {target:,}"
    return {"kind": "same", "text": f"The same {tokens}, word for word, {in_passes}{_times(metrics.speedup)}{full}"}


def _full(metrics: Metrics) -> str:
    """That the context is full, as another sentence."""
    full = conversation.full_sentence(metrics)
    return f" {full}" if full else ""


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _passes(arm: ArmMetrics) -> int:
    """Of the target over its weights: one a round, and the prefill."""
    return arm.rounds + 1


def _one_arm(metrics: Metrics) -> str:
    stopped = "Stopped: " if metrics.reason == "cancelled" else ""
    for arm in metrics.arms.values():
        pace = "" if arm.tpot_s is None else f", {1000 * arm.tpot_s:.1f} ms a token"
        return (
            f"{stopped}{_count(arm.tokens, 'token')} in {_count(_passes(arm), 'pass')}{pace}; run both arms to compare."
            f"{_full(metrics)}"
        )
    return "Stopped." if stopped else ""


def _times(speedup: float | None) -> str:
    """How much faster, in words; the end of a sentence."""
    if speedup is None:
        return "."
    if speedup >= 1.05:
        return f": {speedup:.1f} times as fast."
    if speedup > 0.95:
        return ", in about the same time."
    return f", yet {1 / speedup:.1f} times as slow: drafting costs more than it saves."


def _pace(metrics: Metrics) -> str:
    speculative, target = metrics.arms["speculative"], metrics.arms["target"]
    stopped = "Stopped early. " if metrics.reason == "cancelled" else ""
    return (
        f"{stopped}{_count(speculative.tokens, 'token')} in {_count(_passes(speculative), 'pass')}, "
        f"the target alone {target.tokens:,} in {_passes(target):,}{_times(metrics.speedup)}"
    )


def _parted(started: RunStarted, metrics: Metrics, at: int) -> str:
    return f"The texts part at token {at + 1:,}. {_why_different(started, metrics, at)}"


def _why_different(started: RunStarted, metrics: Metrics, at: int) -> str:
    temperature, acceptor = started.request.sampling.temperature, started.request.acceptor
    if started.engine == "upstream":
        return (
            "The speculative arm is upstream's own loop: it drafts what is likeliest and judges it as "
            "if it had been drawn, "
            "so its text is not the target's."
        )
    if not started.lossless:
        return f"The acceptor {acceptor!r} is lossy: it may keep drafts the target would not have chosen."
    if temperature > 0 and not started.same_text:
        return (
            f"At temperature {temperature:g} both arms draw from the same distribution, but not the same draws; "
            "temperature 0, or the acceptor exact or coupled, gives the same text."
        )
    tie = _tie(metrics, at)
    if started.bit_identical:
        return f"This backend and acceptor promise identical text, so this is a fault worth reporting.{tie}"
    difference = started.target.row_difference
    by = "" if difference is None else f", here by up to {difference:.1g}"
    return f"This backend's logits depend slightly on the window{by}, so a near tie can fall either way.{tie}"


def _tie(metrics: Metrics, at: int) -> str:
    parts = [
        f"{name} {label(metrics.pieces.get(arm.token_ids[at], ''))!r}"
        for name, arm in (("target-only", metrics.arms["target"]), ("speculative", metrics.arms["speculative"]))
        if at < arm.tokens
    ]
    return f" There: {', '.join(parts)}." if len(parts) == 2 else ""


def analysis(metrics: Metrics, trace: list[Event]) -> Item:
    """What the page says of a finished trace: the advice under the verdict, the rest in the Rounds tab."""
    windows, used = theory.what_if(trace), conversation.room(metrics)
    advice = window_advice(metrics, windows)
    return {
        "room": "" if used is None else conversation.room_sentence(*used),
        "advice": "" if advice is None else advice.sentence,
        "chosen": chosen_windows(trace),
        "kinds": [
            {"kind": kind, "accepted": accepted, "judged": judged}
            for kind, (accepted, judged) in acceptance_by_kind(trace).items()
        ],
        "counterfactuals": [
            {
                "name": other.name,
                "description": other.description,
                "expected_length": other.expected_length,
                "kept": other.kept,
            }
            for other in theory.counterfactuals(trace)
        ],
        "what_if": [
            {"k": other.k, "expected_length": other.expected_length, "tpot_s": other.tpot_s} for other in windows
        ],
    }
