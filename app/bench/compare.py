"""The full comparison: the pair at every window and precision, the machine's limits, and the peers, in one sitting.

Everything takes turns prompt by prompt, so that a slow minute of the machine falls on all of it. Ratios come before
milliseconds, and medians with their quartiles before means.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.bench import peer_files, peers
from app.engine.model import Model
from app.engine.session import Session
from app.errors import PairError, PlaygroundError, RequestError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.limits import AUTO, K
from app.record.metrics import ArmTotals, Metrics
from app.record.standing import Sweep
from app.record.trace import Event, Request, Sampling, Trace
from app.record.variants import variants

CONTEXTS = (128, 512, 1024, 2048, 4096)
BANDWIDTH_BYTES = 1 << 28
PASSES = 9


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. dtypes: the first is measured on every prompt and against the peers, the others on `few`; None:
    the pair's own."""

    prompts: Sequence[str]
    ks: Sequence[int]
    dtypes: Sequence[str | None]
    peers: Sequence[str]
    max_tokens: int
    few: int = 12
    contexts: Sequence[int] = CONTEXTS
    pair: PairOptions = field(default_factory=PairOptions)


def compare(plan: Plan) -> dict[str, Any]:
    """The results as JSON types; times in seconds, sizes in bytes. Raises PlaygroundError for what cannot run at all;
    a peer that cannot is named under `missing`."""
    begin = time.perf_counter()
    result: dict[str, Any] = {"type": "bench", "machine": machine(), "ours": [], "peers": [], "missing": {}, "read": {}}
    result["bandwidth"] = bandwidth()
    for place, dtype in enumerate(plan.dtypes):
        _say(f"loading the pair in {dtype or 'its own precision'}")
        session = Session(pairs.load(replace(plan.pair, dtype=dtype)))
        result["backend"], result["notes"] = session.backend, list(session.notes)
        result["pair"] = session.pair
        with ExitStack() as stack:
            rivals = _rivals(plan, session, result, stack) if place == 0 else {}
            prompts = plan.prompts if place == 0 else plan.prompts[: plan.few]
            ours = _ours(session, plan, prompts, rivals)
        limit = roofline(session.loaded.target, ours["one_pass_s"], result["bandwidth"])
        ours |= {"dtype": dtype or session.target.dtype, "roofline": limit}
        if place == 0:
            ours["contexts"] = contexts(session, plan.contexts)
            result["peers"] = [_peer_row(rival, ours) for rival in rivals.values()]
            for rival in rivals.values():
                if rival.fault:
                    result["missing"][rival.peer.name] = rival.fault
        result["ours"].append(ours)
    result |= {"prompts": len(plan.prompts), "max_tokens": plan.max_tokens, "seconds": time.perf_counter() - begin}
    return result


# --- our own arms ---


class _Rival:
    """A peer and what it has answered."""

    def __init__(self, peer: peers.Peer) -> None:
        self.peer = peer
        self.answers: list[peers.Answer] = []
        self.same = 0
        self.fault = ""

    def ask(self, ids: Sequence[int], max_tokens: int, text: Sequence[int]) -> None:
        """text: what our target wrote, to compare."""
        if self.fault:
            return
        try:
            answer = self.peer.ask(ids, max_tokens)
        except PlaygroundError as error:
            self.fault = str(error)
            return
        self.answers.append(answer)
        self.same += answer.ids == list(text)


def _rivals(plan: Plan, session: Session, result: dict[str, Any], stack: ExitStack) -> dict[str, _Rival]:
    if not plan.peers:
        return {}
    python, files = peers.environment(), peer_files.of(plan.pair)
    stops = session.loaded.tokenizer.stop_ids
    rivals = {}
    for name in plan.peers:
        result["read"][name] = peers.read_by(name, files)
        if why := peers.lacking(name, files):
            result["missing"][name] = why
            continue
        _say(f"loading {name}")
        try:
            peer = peers.Peer(name, files, stops, os.cpu_count() or 1, python)
            stack.callback(peer.close)
            peer.ask(_ids(session, plan.prompts[0]), 4)  # the first pass of a process is never a fair one
            peer.tune([_ids(session, prompt) for prompt in plan.prompts[:2]], min(32, plan.max_tokens))
            rivals[name] = _Rival(peer)
        except PlaygroundError as error:
            result["missing"][name] = str(error)
    return rivals


def _ids(session: Session, prompt: str) -> list[int]:
    return session.prompt_ids(Request(prompt=prompt))


def _ours(session: Session, plan: Plan, prompts: Sequence[str], rivals: dict[str, _Rival]) -> dict[str, Any]:
    ks: list[K] = [*plan.ks, AUTO]
    windows = {each.k: each for each in variants(Request(), ks=plan.ks)}
    sweep = Sweep(list(windows.values()))
    target, beside_auto, arms = _Arm(), _Arm(), {k: _Arm() for k in ks}
    for turn, prompt in enumerate(prompts):
        _say(f"{session.target.dtype}: prompt {turn + 1} of {len(prompts)}")
        text: list[int] = []
        for place in range(len(ks)):
            k = ks[(turn + place) % len(ks)]
            trace = _run(session, Request(prompt=prompt, k=k, max_tokens=plan.max_tokens, sampling=Sampling()))
            metrics = Metrics(trace)
            if k == AUTO:
                beside_auto.add(metrics, "target")
            else:
                sweep.add(trace, windows[k], turn)
            arms[k].add(metrics, "speculative")
            target.add(metrics, "target")
            text = metrics.arms["target"].token_ids
        names = list(rivals)
        for place in range(len(names)):
            rivals[names[(turn + place) % len(names)]].ask(_ids(session, prompt), plan.max_tokens, text)
    one = statistics.median(target.totals.verify_passes)
    points = {point.variant.k: point for point in sweep.points}
    rows = []
    for k in ks:
        arm, point = arms[k], None if k == AUTO else points.get(k)
        rows.append(
            {
                "k": str(k),
                **arm.summary(),
                "speedup": beside_auto.tpot / arm.tpot if point is None else point.speedup,
                "speedup_of_medians": target.median / arm.median,
                "quartiles": arm.quartiles(),
                "verify_ratio": None if point is None else point.verify_ratio,
                "predicted_speedup": None if point is None else point.predicted_speedup,
            }
        )
    return {
        "target": target.summary(),
        "speculative": rows,
        "acceptance_rate": sweep.acceptance_rate,
        "cost_ratio": sweep.cost_ratio,
        "one_pass_s": one,
        "memory": {
            "target": session.target.memory,
            "draft": 0 if session.draft is None else session.draft.memory,
            "process": session.memory(),
        },
    }


class _Arm:
    """One arm over many runs."""

    def __init__(self) -> None:
        self.tpots: list[float] = []
        self.ttfts: list[float] = []
        self.speedups: list[float] = []
        self.totals = ArmTotals()
        self.same = 0

    def add(self, metrics: Metrics, name: str) -> None:
        arm = metrics.arms[name]  # type: ignore[index]
        if arm.tpot_s is None:
            return
        self.tpots.append(arm.tpot_s)
        self.ttfts.append(arm.ttft_s or 0.0)
        if metrics.speedup is not None:
            self.speedups.append(metrics.speedup)
        self.totals.add(arm)
        self.same += metrics.first_divergence is None

    @property
    def tpot(self) -> float:
        """All seconds over all tokens."""
        assert self.totals.tpot_s is not None
        return self.totals.tpot_s

    @property
    def median(self) -> float:
        return statistics.median(self.tpots)

    def quartiles(self) -> list[float]:
        """Of the runs' speedups."""
        return _quartiles(self.speedups)

    def summary(self) -> dict[str, Any]:
        totals = self.totals
        return {
            "runs": len(self.tpots),
            "tpot_s": self.tpot,
            "tpot_median_s": self.median,
            "tpot_quartiles_s": _quartiles(self.tpots),
            "ttft_s": statistics.median(self.ttfts),
            "acceptance_rate": totals.acceptance_rate,
            "draft_acceptance_rate": totals.draft_acceptance_rate,
            "mean_acceptance_length": totals.mean_acceptance_length,
            "host_share": totals.shares["host"],
            "draft_share": totals.shares["draft"],
            "identical": self.same,
        }


def _run(session: Session, request: Request) -> Trace:
    trace: list[Event] = list(session.run(request))
    metrics = Metrics(trace[-1:])
    if metrics.reason == "error":
        raise RequestError(metrics.message)
    return trace


def _quartiles(values: Sequence[float]) -> list[float]:
    lower, _, upper = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return [lower, upper]


def _peer_row(rival: _Rival, ours: dict[str, Any]) -> dict[str, Any]:
    tpots = [answer.tpot_s for answer in rival.answers if answer.tpot_s is not None]
    if not tpots:
        rival.fault = rival.fault or f"{rival.peer.name} gave no timed answer."
        return {"name": rival.peer.name, "version": rival.peer.version, "runs": 0}
    weights = [len(answer.ids) - 1 for answer in rival.answers if answer.tpot_s is not None]
    tpot = sum(t * w for t, w in zip(tpots, weights, strict=True)) / sum(weights)
    best = min(row["tpot_s"] for row in ours["speculative"])
    return {
        "name": rival.peer.name,
        "version": rival.peer.version,
        "runs": len(tpots),
        "num_draft": rival.peer.num_draft if rival.peer.name.endswith("+draft") else None,
        "tpot_s": tpot,
        "tpot_median_s": statistics.median(tpots),
        "tpot_quartiles_s": _quartiles(tpots),
        "ttft_s": statistics.median(answer.ttft_s for answer in rival.answers),
        "memory": max(answer.memory for answer in rival.answers),
        "same_text": rival.same,
        "our_target_over_it": ours["target"]["tpot_s"] / tpot,
        "it_over_our_best": tpot / best,
    }


# --- the machine's limits ---


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def bandwidth() -> float:
    """Bytes a second all cores read from memory together: the fastest of several passes over far more than any
    cache."""
    cores = os.cpu_count() or 1
    blocks = [np.ones(BANDWIDTH_BYTES // 8, np.float64) for _ in range(cores)]

    def read(block: np.ndarray[Any, np.dtype[np.float64]]) -> float:
        return float(block.max())  # one vectorised sweep, outside the interpreter's lock

    with ThreadPoolExecutor(cores) as pool:
        times = [_timed(lambda: list(pool.map(read, blocks))) for _ in range(PASSES)]
    return cores * BANDWIDTH_BYTES / min(times)


def roofline(target: Model, one_pass_s: float, bytes_a_second: float) -> dict[str, float]:
    """How near the target's pass over one token is to reading its weights once at the measured bandwidth."""
    floor = target.memory() / bytes_a_second
    return {"floor_s": floor, "pass_s": one_pass_s, "fraction": floor / one_pass_s}


def contexts(session: Session, lengths: Iterable[int]) -> list[dict[str, Any]]:
    """Passes at growing contexts: the target over 1 and 5 tokens, the draft over 1; medians, in seconds."""
    pair = session.loaded
    passes = []
    for length in lengths:
        if length + 8 > pair.target.n_positions or (pair.draft and length + 8 > pair.draft.n_positions):
            continue
        _say(f"context {length}")
        row: dict[str, Any] = {"context": length}
        for name, model, rows in (("target", pair.target, 1), ("verify_5", pair.target, 5), ("draft", pair.draft, 1)):
            if model is not None:
                row[f"{name}_s"] = _pass_seconds(model, length, rows)
        passes.append(row)
    return passes


def _pass_seconds(model: Model, length: int, rows: int) -> float:
    sequence = model.new_sequence((rows,))
    try:
        sequence.forward([10 + i % 1000 for i in range(length)], 1)
        times = []
        for _ in range(PASSES):
            times.append(_timed(lambda: sequence.forward([7] * rows, rows)))
            sequence.rollback(length)
        return statistics.median(times)
    finally:
        sequence.close()


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def check(plan: Plan) -> None:
    """Raises RequestError or PairError for what cannot be measured."""
    from app.backends.openvino.weights import DTYPES

    if plan.pair.target is not None and plan.pair.draft is None:
        raise RequestError("This pair file names no draft; bench compares a target with its draft, so add one.")
    if wrong := [k for k in plan.ks if not 2 <= k <= 16]:
        raise RequestError(f"k = {wrong[0]} cannot be measured; choose windows from 2 to 16.")
    if unknown := [dtype for dtype in plan.dtypes if dtype not in (None, *DTYPES)]:
        raise PairError(f"There is no precision {unknown[0]!r}; choose among {', '.join(DTYPES)}.")
    if unknown := [name for name in plan.peers if name not in peers.ALL]:
        raise RequestError(f"There is no peer {unknown[0]!r}; choose among {', '.join(peers.ALL)}, or none.")
