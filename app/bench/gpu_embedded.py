"""The embedded pair on a GPU, or on whatever device is named: how many drafts are kept, and whether both arms say the
same at temperature 0, answer by answer, through the session that serves the page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from app.bench.cli import PROMPTS, read_prompts
from app.engine.session import Session
from app.errors import ModelError
from app.pairs import registry
from app.pairs.options import PairOptions
from app.record.metrics import ArmTotals, Metrics
from app.record.trace import Request

WINDOWS = (5, 3, 8)
ANSWER = 256  # tokens, at most


def same_text_embedded(device: str, wanted: int, seconds: float, first: int = 0) -> dict[str, Any]:
    """Both arms of the embedded pair until `wanted` tokens are compared or the seconds are over. first: the number of
    the question to begin with."""
    begin = time.perf_counter()
    session = Session(registry.load(PairOptions(backend="torch", device=device)))
    arms = {"target": ArmTotals(), "speculative": ArmTotals()}
    tokens, answers, parted = 0, 0, []
    for number, request in questions(read_prompts(PROMPTS), first):
        metrics = Metrics(session.run(request))
        if metrics.reason == "error":
            raise ModelError(metrics.message)
        answers += 1
        tokens += metrics.agreed
        if metrics.first_divergence is not None:
            parted.append({"question": number, "k": request.k, "token": metrics.first_divergence})
        for name, arm in metrics.arms.items():
            arms[name].add(arm)
        if tokens >= wanted or time.perf_counter() - begin > seconds:
            break
    alone, drafted = arms["target"], arms["speculative"]
    assert session.draft is not None
    return {
        "pair": session.pair,
        "device": session.device,
        "dtype": session.target.dtype,
        "bit_identical": session.bit_identical,
        "row_difference": session.target.row_difference,
        "first_question": first,
        "answers": answers,
        "tokens": tokens,
        "parted": parted,
        "identical": not parted,
        "kept": drafted.draft_acceptance_rate,
        "acceptance": drafted.acceptance_rate,
        "tokens_a_round": drafted.mean_acceptance_length,
        "target_ms": _milliseconds(alone.tpot_s),
        "speculative_ms": _milliseconds(drafted.tpot_s),
        "draft_pass_ms": _milliseconds(drafted.draft_pass_s),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def questions(prompts: Sequence[str], first: int = 0) -> Iterator[tuple[int, Request]]:
    """Requests by number, without end: the prompts as questions, then as beginnings of texts, then longer and longer
    ones made of several."""
    for number in count(first):
        turn, place = divmod(number, len(prompts))
        said = [prompts[(place + each * 7) % len(prompts)] for each in range(max(1, turn))]
        request = Request(
            prompt="\n\n".join(said), chat_template=turn == 0, max_tokens=ANSWER, k=WINDOWS[number % len(WINDOWS)]
        )
        yield number, request


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)
