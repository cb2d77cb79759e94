"""Requests, events and traces: plain values, written as JSON lines and read back unchanged. Stdlib only.

A `Trace` is the list of a run's events. Live view, replay, export, metrics and bench all fold the same events.
Token ids are the engine's; `TokenTexts` carries the text of every id before the first round that mentions it,
so that a trace can be shown without a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from app.errors import TraceError
from app.record.limits import AUTO, DEFAULT_K, DEFAULT_MAX_TOKENS, MAX_TOKENS, K
from app.record.typed import build, plain

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""What the versions hold, and how they differ, stands in `app/record/README.md`."""
MAX_TRACE_BYTES = 64 * 1024 * 1024
MAX_EVENTS = 8 * MAX_TOKENS
"""Both arms with a round a token, and the texts of each, are half of it."""

Arm = Literal["target", "speculative"]
Engine = Literal["own", "upstream"]
Arms = Literal["both", "target", "speculative"]
State = Literal["accepted", "rejected", "discarded"]
Provenance = Literal["corrected", "bonus", "target"]
DraftSource = Literal["draft", "lookup"]
FinishReason = Literal["stop", "length", "context"]
EndReason = Literal["stop", "length", "context", "cancelled", "error"]

ARMS: tuple[Arm, ...] = ("target", "speculative")


@dataclass(frozen=True, slots=True)
class Sampling:
    """The warp and the seed. temperature 0 is argmax; top_p 1 and top_k 0 switch those off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for. messages: the turns of a conversation (role, content) before `prompt`, which is empty
    where they end with what is asked. k: the window, or "auto" (a trace of before 2026-11 says 0)."""

    prompt: str = ""
    system: str = ""
    messages: tuple[dict[str, str], ...] = ()
    chat_template: bool = True
    max_tokens: int = DEFAULT_MAX_TOKENS
    k: K = DEFAULT_K
    sampling: Sampling = field(default_factory=Sampling)
    acceptor: str = "rejection"
    drafter: str = "draft"
    arms: Arms = "both"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the page says of a loaded model. memory in bytes. row_difference: between logits of one row in windows of
    several sizes, at most, in a check when the model was loaded; None: it was not looked for."""

    name: str
    num_parameters: int
    dtype: str
    memory: int
    vocab_size: int
    n_positions: int
    row_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token a model held likely: its probability in the model's plain softmax, and after the warp."""

    id: int
    model_prob: float
    warped_prob: float


@dataclass(frozen=True, slots=True)
class Grounds:
    """What an acceptor went by at one judged draft, besides its coin; None is what its rule does not know.

    entropy, bar: `typical`; the entropy (nats) of the target's warped row, and what the draft's p had to be above.
    prefix_ratio: `block`; p_i = min(1, p_(i-1) p/q), how far the whole prefix up to this draft holds.
    own_id: `exact` and `coupled`; the token the target drew itself. own_u: `exact`; the uniform it drew by, in [0, 1).
    own_sum, draft_sum: `coupled`; log p + Gumbel noise of the target's own token and of the draft: the larger one wins.
    None too where p is 0, and the sum minus infinity.
    """

    entropy: float | None = None
    bar: float | None = None
    prefix_ratio: float | None = None
    own_id: int | None = None
    own_u: float | None = None
    own_sum: float | None = None
    draft_sum: float | None = None


@dataclass(frozen=True, slots=True)
class DraftedToken:
    """A token the draft proposed, and its verdict.

    q and p: its warped probability in the draft and the target. u: the coin, uniform in [0, 1); threshold: what u was
    held against (min(1, p/q) for `rejection`); both None where the acceptor flips no coin for it or never judged it.

    draft_model_prob, target_model_prob: its probability in each model's plain softmax, before the warp. target_entropy:
    of the target's plain softmax here, nats. divergence: KL of the draft's plain softmax from the target's, nats,
    Σ q log(q/p); None for a looked-up token. overlap: Σ min(p, q) of the warped rows, the chance that `rejection` keeps
    a draft drawn here. grounds: what the acceptor went by. All six are None in a trace of version 1.
    """

    id: int
    state: State
    q: float
    p: float
    u: float | None
    threshold: float | None
    draft_alternatives: tuple[Alternative, ...]
    target_alternatives: tuple[Alternative, ...]
    draft_model_prob: float | None = None
    target_model_prob: float | None = None
    target_entropy: float | None = None
    divergence: float | None = None
    overlap: float | None = None
    grounds: Grounds | None = None


@dataclass(frozen=True, slots=True)
class FinalToken:
    """The token the target itself contributed to a round.

    p: its warped target probability. residual: the distribution a corrected token was drawn from (top entries,
    most likely first; `model_prob` is there the target's warped p, `warped_prob` the residual's), empty otherwise.
    target_model_prob, target_entropy: as of a drafted token; None in a trace of version 1.
    """

    id: int
    provenance: Provenance
    p: float
    alternatives: tuple[Alternative, ...]
    residual: tuple[Alternative, ...] = ()
    target_model_prob: float | None = None
    target_entropy: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one arm; round 0 is the prefill with its first token.

    final is None where an accepted stop token ended the arm. Seconds are compute time of this arm alone: draft passes,
    the target's pass, and all else the loop did (host). total_variation: the distance between the emitted tokens'
    distribution and the target's, worst of this round; None where it was not computed. finish_reason is set on an arm's
    last round. k: the widest it was to be (the draft ends it at a stop token, and with k = auto where another draft
    would not pay); None in traces of before it was recorded.
    """

    index: int
    arm: Arm
    drafted: tuple[DraftedToken, ...]
    final: FinalToken | None
    draft_seconds: float
    verify_seconds: float
    host_seconds: float
    total_variation: float | None = None
    finish_reason: FinishReason | None = None
    source: DraftSource | None = None
    k: int | None = None

    @property
    def accepted(self) -> tuple[DraftedToken, ...]:
        return tuple(token for token in self.drafted if token.state == "accepted")

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What the round emitted, in order."""
        final = () if self.final is None else (self.final.id,)
        return tuple(token.id for token in self.accepted) + final

    @property
    def seconds(self) -> float:
        return self.draft_seconds + self.verify_seconds + self.host_seconds


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first event. bit_identical: the backend promises window-independent logits. same_text: the acceptor makes
    both arms print one text at any temperature, given such logits. engine: whose loop ran the speculative arm;
    upstream: the library's, which promises nothing of the text (own where it was not recorded)."""

    request: Request
    pair: str
    backend: str
    device: str
    target: ModelCard
    draft: ModelCard | None
    prompt_tokens: int
    lossless: bool
    bit_identical: bool
    created: str
    schema_version: int = SCHEMA_VERSION
    same_text: bool = False
    engine: Engine = "own"


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """Text of ids first seen in the next round. Bytes that are not UTF-8 by themselves are kept by surrogate
    escapes, so that joined pieces give back split characters (`join_pieces`). special: control tokens."""

    pieces: dict[int, str]
    special: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last event; message is the sentence for the person where reason is error."""

    reason: EndReason
    message: str = ""


Event = RunStarted | TokenTexts | Round | RunFinished
Trace = list[Event]

_EVENTS: dict[str, type[Event]] = {
    "run_started": RunStarted,
    "token_texts": TokenTexts,
    "round": Round,
    "run_finished": RunFinished,
}
_NAMES = {kind: name for name, kind in _EVENTS.items()}
_ONE, _LONGEST = 1.001, 1e6
"""A probability as rounding leaves it; seconds of a round."""
_FORMER_AUTO = 0
"""How a request of version 1 said auto before it had a name."""


def to_dict(event: Event) -> dict[str, Any]:
    """The event as JSON types, with its `type` first."""
    return {"type": _NAMES[type(event)], **plain(event)}


def dumps(event: Event) -> str:
    """One JSON line, ASCII only, without the newline."""
    return json.dumps(to_dict(event), separators=(",", ":"), allow_nan=False)


def loads(line: str) -> Event:
    """The event written by `dumps`. Raises TraceError naming the fault."""
    try:
        data = json.loads(line, parse_constant=_no_number)
    except RecursionError:
        raise TraceError("This trace has a line that is nested too deeply to be an event; export it again.") from None
    except ValueError as error:
        raise TraceError(f"This trace has a line that is not JSON ({error}); export it again.") from None
    name = data.pop("type", None) if isinstance(data, dict) else None
    kind = _EVENTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise TraceError(
            "This trace has a line that is no event of a run; choose a .jsonl file exported by this playground."
        )
    if kind is RunStarted:
        _upgrade(data)
    event: Event = build(kind, data, kind.__name__)
    return event


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _upgrade(data: dict[str, Any]) -> None:
    """Make a run's start of any readable version one of this version: what it did not record keeps its default."""
    if data.get("schema_version") not in READABLE_VERSIONS:
        raise TraceError(
            f"This trace has schema version {data.get('schema_version')!r}, this playground reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; replay it with the version that wrote it."
        )
    request = data.get("request")
    if data["schema_version"] == 1 and isinstance(request, dict) and request.get("k") == _FORMER_AUTO:
        request["k"] = AUTO
    data["schema_version"] = SCHEMA_VERSION


def request(data: Any) -> Request:
    """The request whose fields these JSON types are. Raises TraceError naming the fault."""
    built: Request = build(Request, data, "Request")
    return built


def read(lines: Iterable[str]) -> Trace:
    """A whole trace, checked: starts with one RunStarted, rounds count up in each arm, every id has a text."""
    trace: Trace = []
    for line in lines:
        if line.strip():
            trace.append(loads(line))
            if len(trace) > MAX_EVENTS:
                raise TraceError(f"This trace has more than {MAX_EVENTS} events, which no run of this playground has.")
    if not trace or not isinstance(trace[0], RunStarted):
        raise TraceError(
            "This trace does not begin with the start of a run; choose a .jsonl file exported by this playground."
        )
    known: set[int] = set()
    next_index = dict.fromkeys(ARMS, 0)
    for place, event in enumerate(trace):
        if isinstance(event, RunStarted) and place:
            raise TraceError("This file holds more than one run; split it so that each file holds one.")
        if isinstance(event, TokenTexts):
            known.update(event.pieces)
        if isinstance(event, Round):
            if event.index != next_index[event.arm]:
                raise TraceError(
                    f"Round {next_index[event.arm]} of the {event.arm} arm is missing from this trace; export it again."
                )
            next_index[event.arm] += 1
            _check_figures(event)
            if missing := mentioned_ids(event) - known:
                raise TraceError(f"This trace gives no text for token {min(missing)}; export it again.")
        if isinstance(event, RunFinished) and place != len(trace) - 1:
            raise TraceError("This trace goes on after the run's end; export it again.")
    return trace


def _check_figures(round_: Round) -> None:
    """Raise TraceError for what is no probability, or no time: figures are worked out of them."""
    alternatives = [
        alternative
        for token in round_.drafted
        for alternative in (*token.draft_alternatives, *token.target_alternatives)
    ]
    final = round_.final
    if final is not None:
        alternatives += [*final.alternatives, *final.residual]
    probabilities = [probability for each in alternatives for probability in (each.model_prob, each.warped_prob)]
    probabilities += [probability for token in round_.drafted for probability in (token.q, token.p)]
    probabilities += [] if final is None else [final.p]
    seconds = (round_.draft_seconds, round_.verify_seconds, round_.host_seconds)
    ids = mentioned_ids(round_)
    if not (
        all(0 <= probability <= _ONE for probability in probabilities)
        and all(0 <= each < _LONGEST for each in seconds)
        and 0 <= (round_.total_variation or 0) <= _ONE
        and all(id_ >= 0 for id_ in ids)
    ):
        raise TraceError(
            f"Round {round_.index} of the {round_.arm} arm holds a figure that no run makes; export the trace again."
        )


def read_text(text: object) -> Trace:
    """The trace whose lines this is, as a file or a browser brings it. Raises TraceError for anything else."""
    if not isinstance(text, str):
        raise TraceError("This is no text, so it is no trace; choose a .jsonl file exported by this playground.")
    if len(text) > MAX_TRACE_BYTES:
        raise TraceError(
            f"This trace is larger than {MAX_TRACE_BYTES // 2**20} MiB, which no run of this playground is."
        )
    # Not splitlines: it breaks at U+2028 and the like, which JSON allows within a string.
    return read(text.replace("\r\n", "\n").split("\n"))


def write(trace: Iterable[Event]) -> Iterator[str]:
    """The lines of a trace file, each with its newline."""
    for event in trace:
        yield dumps(event) + "\n"


def mentioned_ids(round_: Round) -> set[int]:
    """Every token id the round names, alternatives included."""
    ids = {token.id for token in round_.drafted}
    ids |= {grounds.own_id for token in round_.drafted if (grounds := token.grounds) and grounds.own_id is not None}
    groups = [
        alternatives
        for token in round_.drafted
        for alternatives in (token.draft_alternatives, token.target_alternatives)
    ]
    if round_.final is not None:
        ids.add(round_.final.id)
        groups += [round_.final.alternatives, round_.final.residual]
    return ids | {alternative.id for group in groups for alternative in group}


def rounds(trace: Iterable[Event], arm: Arm) -> list[Round]:
    """The rounds of one arm, in order."""
    return [event for event in trace if isinstance(event, Round) and event.arm == arm]
