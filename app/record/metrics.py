"""Figures of a trace: pure functions over its events. Stdlib only.

`Metrics` is the one implementation: the page adds events while they arrive, `summary` folds a finished trace.
Seconds are compute time of an arm, as its rounds carry them. A figure that has nothing to stand on (a rate of
nothing drafted, a TPOT of one token) is None, never 0. What each figure means: `definitions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from app.record.pieces import join_pieces
from app.record.trace import (
    ARMS,
    Arm,
    EndReason,
    Event,
    FinishReason,
    Round,
    RunStarted,
    TokenTexts,
)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


class _Counted:
    """What is counted of one run of an arm or of several, and the ratios of those counts."""

    def __init__(self) -> None:
        self.rounds = 0
        self.emitted = 0
        self.draft_seconds = 0.0
        self.verify_seconds = 0.0
        self.host_seconds = 0.0
        self.counts: dict[str, int] = dict.fromkeys(
            ("accepted", "corrected", "bonus", "target", "rejected", "discarded"), 0
        )
        """Tokens of each provenance, and drafts of each refusal."""
        self.drafted_at: Counter[int] = Counter()
        self.accepted_at: Counter[int] = Counter()
        """Drafts, and those accepted, by their place in the window, the first at 0."""

    def _take(self, other: _Counted) -> None:
        """Add another's counts and seconds."""
        for name in ("rounds", "emitted", "draft_seconds", "verify_seconds", "host_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, count in other.counts.items():
            self.counts[kind] += count
        self.drafted_at += other.drafted_at
        self.accepted_at += other.accepted_at

    @property
    def accepted(self) -> int:
        return self.counts["accepted"]

    @property
    def judged(self) -> int:
        return self.counts["accepted"] + self.counts["rejected"]

    @property
    def drafted(self) -> int:
        return self.judged + self.counts["discarded"]

    @property
    def acceptance_rate(self) -> float | None:
        return _ratio(self.accepted, self.judged)

    @property
    def draft_acceptance_rate(self) -> float | None:
        return _ratio(self.accepted, self.drafted)

    @property
    def mean_acceptance_length(self) -> float | None:
        return _ratio(self.emitted, self.rounds)

    @property
    def acceptance_by_position(self) -> list[float]:
        """For each place in the window, first draft first: accepted there / drafted there."""
        return [self.accepted_at[place] / self.drafted_at[place] for place in range(len(self.drafted_at))]

    @property
    def draft_pass_s(self) -> float | None:
        """Seconds of one draft pass: a pass for each drafted token."""
        return _ratio(self.draft_seconds, self.drafted)

    @property
    def shares(self) -> dict[str, float | None]:
        """How the time after round 0 divides into draft, verify and host."""
        parts = {"draft": self.draft_seconds, "verify": self.verify_seconds, "host": self.host_seconds}
        return {name: _ratio(seconds, sum(parts.values())) for name, seconds in parts.items()}


class ArmMetrics(_Counted):
    """One arm, counted round by round. Seconds and counts of drafts leave out round 0, the prefill."""

    def __init__(self) -> None:
        super().__init__()
        self.token_ids: list[int] = []
        self.arrivals: list[float] = []
        """The arm's clock, in seconds, when each token arrived; the tokens of a round arrive together."""
        self.seconds = 0.0
        self.ttft_s: float | None = None
        self.finish_reason: FinishReason | None = None
        self.total_variation: float | None = None
        self._widest = 0
        self._widest_rounds = 0
        self._widest_seconds = 0.0

    def add(self, round_: Round) -> None:
        """Count one round more. Constant work for each of its tokens."""
        self.seconds += round_.seconds
        if round_.index == 0:
            self.ttft_s = round_.seconds
        else:
            self.rounds += 1
            self.emitted += len(round_.token_ids)
            self.draft_seconds += round_.draft_seconds
            self.verify_seconds += round_.verify_seconds
            self.host_seconds += round_.host_seconds
            self._count_window(round_)
        for place, token in enumerate(round_.drafted):
            self.drafted_at[place] += 1
            self.accepted_at[place] += token.state == "accepted"
            self.counts[token.state] += 1
        if round_.final is not None:
            self.counts[round_.final.provenance] += 1
        self.token_ids += round_.token_ids
        self.arrivals += [self.seconds] * len(round_.token_ids)
        self.finish_reason = round_.finish_reason
        if round_.total_variation is not None:
            self.total_variation = max(self.total_variation or 0.0, round_.total_variation)

    def _count_window(self, round_: Round) -> None:
        # The verify time of a full window: the tail's shrunken ones would lower it.
        if len(round_.drafted) > self._widest:
            self._widest, self._widest_rounds, self._widest_seconds = len(round_.drafted), 0, 0.0
        if len(round_.drafted) == self._widest:
            self._widest_rounds += 1
            self._widest_seconds += round_.verify_seconds

    @property
    def tokens(self) -> int:
        return len(self.token_ids)

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None below two tokens."""
        if self.tokens < 2 or self.ttft_s is None:
            return None
        return (self.seconds - self.ttft_s) / (self.tokens - 1)

    @property
    def tokens_per_s(self) -> float | None:
        return None if not self.tpot_s else 1 / self.tpot_s

    @property
    def window(self) -> int:
        """The widest window verified, in tokens: 1 for the target alone."""
        return self._widest + 1

    @property
    def verify_pass_s(self) -> float | None:
        """Seconds of the target's pass over its widest window."""
        return _ratio(self._widest_seconds, self._widest_rounds)


class ArmTotals(_Counted):
    """One arm of several runs, added up: every figure is a ratio of sums, so a long run weighs more than a short
    one."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.verify_passes: list[float] = []
        """Of each run, seconds of the target's pass over the widest window."""
        self._tokens, self._tpot_seconds = 0, 0.0

    def add(self, arm: ArmMetrics) -> None:
        """Take in a finished run."""
        self._take(arm)
        self.runs += 1
        if arm.verify_pass_s is not None:
            self.verify_passes.append(arm.verify_pass_s)
        if arm.tpot_s is not None:
            self._tokens += arm.tokens - 1
            self._tpot_seconds += arm.tpot_s * (arm.tokens - 1)

    def __add__(self, other: ArmTotals) -> ArmTotals:
        both = ArmTotals()
        for each in (self, other):
            both._take(each)
            both.runs += each.runs
            both.verify_passes += each.verify_passes
            both._tokens += each._tokens
            both._tpot_seconds += each._tpot_seconds
        return both

    @property
    def tpot_s(self) -> float | None:
        """All seconds over all tokens."""
        return _ratio(self._tpot_seconds, self._tokens)

    @property
    def verify_pass_s(self) -> float | None:
        """Mean of the runs'."""
        return _ratio(sum(self.verify_passes), len(self.verify_passes))


class Metrics:
    """Both arms and what compares them, kept up to date event by event."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.started: RunStarted | None = None
        self.pieces: dict[int, str] = {}
        self.special: set[int] = set()
        self.arms: dict[Arm, ArmMetrics] = {}
        self.reason: EndReason | None = None
        self.message = ""
        self._agreed = 0
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take in the next event of the trace."""
        if isinstance(event, RunStarted):
            self.started = event
        elif isinstance(event, TokenTexts):
            self.pieces.update(event.pieces)
            self.special.update(event.special)
        elif isinstance(event, Round):
            self.arms.setdefault(event.arm, ArmMetrics()).add(event)
            self._compare()
        else:
            self.reason, self.message = event.reason, event.message

    def _compare(self) -> None:
        if len(self.arms) == 2:
            ours, theirs = (self.arms[arm].token_ids for arm in ARMS)
            shorter = min(len(ours), len(theirs))
            while self._agreed < shorter and ours[self._agreed] == theirs[self._agreed]:
                self._agreed += 1

    @property
    def agreed(self) -> int:
        """How many tokens from the start are the same in both arms."""
        return self._agreed

    @property
    def first_divergence(self) -> int | None:
        """Index of the first token that differs; None while the arms agree as far as both went.

        An arm that ended by itself where the other went on differs there; one that was cut off does not.
        """
        if len(self.arms) < 2:
            return None
        short, long = sorted(self.arms.values(), key=lambda arm: arm.tokens)
        if self._agreed < short.tokens:
            return self._agreed
        return short.tokens if short.tokens < long.tokens and short.finish_reason is not None else None

    @property
    def speedup(self) -> float | None:
        target, speculative = self.arms.get("target"), self.arms.get("speculative")
        if target is None or speculative is None or target.tpot_s is None or not speculative.tpot_s:
            return None
        return target.tpot_s / speculative.tpot_s

    @property
    def cost_ratio(self) -> float | None:
        """c: seconds of a draft pass / seconds of the target's pass over one token."""
        return self._against_target_pass("draft_pass_s")

    @property
    def verify_ratio(self) -> float | None:
        """v: seconds of the target's pass over the window / over one token."""
        return self._against_target_pass("verify_pass_s")

    def _against_target_pass(self, name: str) -> float | None:
        target, speculative = self.arms.get("target"), self.arms.get("speculative")
        if target is None or speculative is None:
            return None
        one, other = target.verify_pass_s, getattr(speculative, name)
        return other / one if one and other is not None else None

    @property
    def total_variation(self) -> float | None:
        """The worst of any round of the arm that drafts; None where it is not known, as of upstream's loop."""
        arm = self.arms.get("speculative") or self.arms.get("target")
        return None if arm is None else arm.total_variation

    def text(self, arm: Arm) -> str:
        """What the arm wrote, without control tokens."""
        ids = self.arms[arm].token_ids if arm in self.arms else []
        return join_pieces(self.pieces.get(id_, "") for id_ in ids if id_ not in self.special)

    def summary(self) -> dict[str, Any]:
        """The summary line: JSON types only; an arm that did not run is absent."""
        return {
            "type": "summary",
            "engine": "own" if self.started is None else self.started.engine,
            "arms": {arm: self._arm_summary(arm) for arm in ARMS if arm in self.arms},
            "speedup": self.speedup,
            "first_divergence": self.first_divergence,
            "total_variation": self.total_variation,
            "cost_ratio": self.cost_ratio,
            "verify_ratio": self.verify_ratio,
            "reason": self.reason,
            "message": self.message,
        }

    def _arm_summary(self, name: Arm) -> dict[str, Any]:
        arm = self.arms[name]
        return {
            "tokens": arm.tokens,
            "ttft_s": arm.ttft_s,
            "tpot_s": arm.tpot_s,
            "tokens_per_s": arm.tokens_per_s,
            "rounds": arm.rounds,
            "accepted": arm.accepted,
            "drafted": arm.drafted,
            "acceptance_rate": arm.acceptance_rate,
            "draft_acceptance_rate": arm.draft_acceptance_rate,
            "mean_acceptance_length": arm.mean_acceptance_length,
            "acceptance_by_position": arm.acceptance_by_position,
            "total_variation": arm.total_variation,
            "counts": dict(arm.counts),
            "draft_seconds": arm.draft_seconds,
            "verify_seconds": arm.verify_seconds,
            "host_seconds": arm.host_seconds,
            "shares": arm.shares,
            "finish_reason": arm.finish_reason,
            "text": self.text(name),
            "token_ids": list(arm.token_ids),
        }


def token_kind(text: str) -> str:
    """words, digits, punctuation, code, whitespace or other: what a token's text consists of."""
    stripped = text.strip()
    if not stripped:
        return "whitespace"
    if stripped.isnumeric():
        return "digits"
    if all(character.isalpha() or character in "'’-" for character in stripped):
        return "words" if any(character.isalpha() for character in stripped) else "punctuation"
    if all(character in ".,;:!?'\"’‘“”…–—-()" for character in stripped):
        return "punctuation"
    if any(character in "{}[]<>=+*/\\_|&^%$#@~`()" for character in stripped):
        return "code"
    return "other"


def acceptance_by_kind(trace: Iterable[Event]) -> dict[str, tuple[int, int]]:
    """For each kind of drafted token: how many were accepted, of how many judged (accepted or rejected)."""
    kinds: dict[int, str] = {}
    counts: dict[str, tuple[int, int]] = {}
    for event in trace:
        if isinstance(event, TokenTexts):
            kinds |= {id_: token_kind(join_pieces([piece])) for id_, piece in event.pieces.items()}
            kinds |= dict.fromkeys(event.special, "control")
        elif isinstance(event, Round):
            for token in event.drafted:
                if token.state != "discarded":
                    kind = kinds.get(token.id, "other")
                    accepted, judged = counts.get(kind, (0, 0))
                    counts[kind] = (accepted + (token.state == "accepted"), judged + 1)
    return dict(sorted(counts.items(), key=lambda entry: -entry[1][1]))


def summary(trace: Iterable[Event]) -> dict[str, Any]:
    """The summary line of a whole trace."""
    return Metrics(trace).summary()
