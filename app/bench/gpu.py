"""`bench gpu`: what a card gives this playground, in one run and one JSON: bandwidth, passes by width, the draft with
its draw, both arms, the host's share, transformers on the same weights, and whether greedy arms agree.

Times come from random weights of real shapes (`gpu_models`), acceptance and text from the embedded pair where it is at
hand. Each part is written down as soon as it is measured, and one that fails says why and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from app.backends.torch import devices, precision
from app.backends.torch.model import TorchModel
from app.bench import gpu_models, gpu_peers
from app.bench.gpu_arms import arm, same_text
from app.bench.gpu_passes import bandwidth, drafting, found_identity, matmuls, passes, plain_passes, profile
from app.bench.gpu_plan import SAMPLINGS, Plan
from app.errors import RequestError

HALF_SURE = 4.2  # about the largest of 49,152 logits that spread by 1

GOALS = {
    "bandwidth_share": (">=", 0.70),
    "cost_ratio": ("<=", 0.20),
    "verify_ratio_5": ("<=", 1.05),
    "verify_ratio_8": ("<=", 1.10),
    "host_share": ("<=", 0.05),
    "over_generate": (">=", 2.0),
    "over_assisted": (">=", 2.0),
    "identical": (">=", 1.0),
}


@dataclass(slots=True)
class Report:
    """What was measured so far, and where it is written."""

    path: Path | None
    budget: float
    begin: float = field(default_factory=time.perf_counter)
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin

    def part(self, name: str, measure: Callable[[], Any], needs: float = 0.0) -> Any:
        """Measure and write down; None where it failed, or where fewer seconds are left than it needs."""
        if self.seconds + needs > self.budget:
            self.parts[name] = {"left_out": f"{self.seconds:.0f} of {self.budget:.0f} seconds were used"}
            return None
        started = self.seconds
        try:
            value = measure()
        except Exception as error:  # one part's fault must not cost the others
            self.parts[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            value = None
        else:
            self.parts[name] = value
        print(f"{self.seconds:6.1f} s  {name}: {json.dumps(self.parts[name])[:300]}", file=sys.stderr, flush=True)
        self.parts.setdefault("seconds", {})[name] = round(self.seconds - started, 2)
        self.write()
        return value

    def write(self) -> None:
        if self.path is not None:
            self.path.write_text(json.dumps(self.parts, indent=1) + "\n", encoding="utf-8")


def measure(plan: Plan, report: Report) -> dict[str, Any]:
    """All parts; returns them."""
    device, dtype = plan.device, precision.NAMES[plan.dtype]
    report.parts["machine"] = {
        "device": devices.device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "dtype": plan.dtype,
        "context": plan.context,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    speed = report.part("bandwidth", lambda: bandwidth(device)) or {"copy_bytes_s": float("nan")}
    target_network = gpu_models.network(plan.target, device, dtype)
    draft_network = gpu_models.network(plan.draft, device, dtype, wrong=0.3, seed=1)
    target = gpu_models.model(target_network, plan.target, "target", plan.dtype)
    draft = gpu_models.model(draft_network, plan.draft, "draft", plan.dtype)
    read = target.memory() - dtype.itemsize * plan.target.vocab_size * plan.target.hidden_size
    report.parts["models"] = {"target_bytes": target.memory(), "read_a_pass": read, "draft_bytes": draft.memory()}
    report.parts["fused_kernels"] = "used" if target.unfused is None else f"not used: {target.unfused}"

    report.part("passes", lambda: passes(target, plan, plan.context))
    report.part("draft_ms", lambda: drafting(draft, plan))
    report.part("identity", lambda: found_identity(target), needs=5)
    report.part("passes_settled", lambda: passes(target, plan, plan.context))
    alone = report.part("target_alone", lambda: arm(target, None, plan, 1, SAMPLINGS["T = 0"]))
    for name, sampling in SAMPLINGS.items():
        for k in (5,) if name != "T = 0" else (3, 5, 8):
            report.part(f"speculative k = {k}, {name}", partial(arm, target, draft, plan, k, sampling), needs=4)
    for name in ("T = 1", "T = 1, top_p 0.95"):
        report.part(f"target_alone, {name}", partial(arm, target, None, plan, 1, SAMPLINGS[name]), needs=4)
    report.part("profile_target", lambda: profile(target, plan), needs=3)
    report.part("profile_draft", lambda: profile(draft, plan), needs=3)
    report.part("matmuls", lambda: matmuls(plan, speed["copy_bytes_s"]), needs=6)
    if plan.peers:
        report.part("transformers", lambda: peers(plan, target_network, draft_network), needs=25)

    hard = gpu_models.model(gpu_models.flat(target_network), plan.target, "target, flat", plan.dtype)
    hard.widths, hard.bit_identical = target.widths, target.bit_identical
    prompts = [gpu_models.chain(plan.target.vocab_size, 24, 11 * i + 1) for i in range(3)]
    report.part("same_text_flat", lambda: same_text(hard, draft, prompts, min(plan.tokens, 200)), needs=10)
    small, small_draft = small_pair(plan)
    each = 256
    prompts = [gpu_models.chain(plan.small.vocab_size, 16, 13 * i + 1) for i in range(-(-plan.said // each))]
    report.part("identity_small", lambda: found_identity(small), needs=5)
    report.part("same_text_small", lambda: same_text(small, small_draft, prompts, each), needs=plan.said / 200)
    report.part("int4", lambda: four_bits(plan, plan.target), needs=15)
    report.part("int4_large", lambda: four_bits(plan, plan.large), needs=60)
    report.part("passes_plain", lambda: plain_passes(target_network, plan), needs=6)
    report.part("passes_long", lambda: passes(target, plan, 7 * plan.context), needs=5)
    report.parts["goals"] = goals(report.parts, alone, speed["copy_bytes_s"], read)
    report.parts["seconds"]["all"] = round(report.seconds, 1)
    report.write()
    return report.parts


def small_pair(plan: Plan) -> tuple[TorchModel, TorchModel]:
    """The shape of the embedded pair, its output layer so flat that about half of what it says follows the chain, and a
    draft that says the chain."""
    dtype = precision.NAMES[plan.dtype]
    of = gpu_models.flat(gpu_models.network(plan.small, plan.device, dtype, seed=2), peak=HALF_SURE)
    other = gpu_models.network(plan.small_draft, plan.device, dtype, seed=2)
    return (
        gpu_models.model(of, plan.small, "small", plan.dtype),
        gpu_models.model(other, plan.small_draft, "small draft", plan.dtype),
    )


def four_bits(plan: Plan, shape: Any) -> dict[str, Any]:
    """A target whose layers are packed in 4 bits: bytes, and milliseconds of a pass by its program's rows."""
    of = gpu_models.network(shape, plan.device, precision.NAMES[plan.dtype], packed=True)
    made = gpu_models.model(of, shape, "target", "int4")
    return {"bytes": made.memory(), "identity": found_identity(made), "passes": passes(made, plan, plan.context)}


def peers(plan: Plan, target: Any, draft: Any) -> dict[str, Any]:
    """transformers' generate and assisted generation, its own schedule of drafts and constant ones."""
    one, two = gpu_peers.transformers_model(target, plan.target), gpu_peers.transformers_model(draft, plan.draft)
    prompt = gpu_models.chain(plan.target.vocab_size, plan.context)
    tokens = min(64, plan.tokens)
    expected = gpu_models.chain(plan.target.vocab_size, tokens, prompt[-1] + gpu_models.STEP)
    import transformers

    answer: dict[str, Any] = {"version": transformers.__version__}
    gpu_peers.generate(one, prompt[:64], 4, two)  # whatever a first call builds
    for name, options in {
        "generate": {},
        "assisted": {"assistant": two},
        "assisted, 4 drafts": {"assistant": two, "num_draft": 4},
    }.items():
        said_, seconds = gpu_peers.generate(one, prompt, tokens, **options)
        answer[name] = {"tpot_ms": 1e3 * seconds, "same_text": said_ == expected}
    return answer


def goals(parts: dict[str, Any], alone: dict[str, Any] | None, copy: float, read: int) -> dict[str, Any]:
    """Each goal with what was measured, where it was."""
    figures: dict[str, float] = {}
    passes_ = parts.get("passes_settled") or {}
    if alone and "tpot_ms" in alone:
        figures["bandwidth_share"] = read / (1e-3 * alone["tpot_ms"]) / copy
        draft = parts.get("draft_ms") or {}
        for name in SAMPLINGS:
            if name in draft:
                figures[f"cost_ratio, {name}"] = draft[name] / alone["tpot_ms"]
    widths = sorted(int(width) for width in passes_ if width.isdigit())
    if widths:
        narrowest = passes_[str(widths[0])]
        for rows in (5, 8):
            if wide := next((width for width in widths if width >= rows), None):
                figures[f"verify_ratio_{rows}"] = passes_[str(wide)] / narrowest
    hosts = [value["host_share"] for name, value in parts.items() if "top_p" in name and "host_share" in (value or {})]
    if hosts:
        figures["host_share"] = max(hosts)
    theirs = parts.get("transformers") or {}
    best = min(
        (value["tpot_ms"] for name, value in parts.items() if name.endswith("T = 0") and "tpot_ms" in (value or {})),
        default=None,
    )
    if "generate" in theirs and best:
        figures["over_generate"] = theirs["generate"]["tpot_ms"] / best
        figures["target_alone_over_generate"] = theirs["generate"]["tpot_ms"] / alone["tpot_ms"] if alone else 0.0
        assisted = [value["tpot_ms"] for name, value in theirs.items() if name.startswith("assisted")]
        figures["over_assisted"] = min(assisted) / best
    texts = [value for name, value in parts.items() if name.startswith("same_text") and "identical" in (value or {})]
    if texts:
        figures["identical"] = float(all(value["identical"] for value in texts))
    table = {}
    for name, value in figures.items():
        relation, goal = GOALS.get(name.split(",")[0], (None, None))
        met = None if goal is None else value >= goal if relation == ">=" else value <= goal
        table[name] = {"measured": value, "goal": None if goal is None else f"{relation} {goal}", "met": met}
    return table


def main(args: argparse.Namespace) -> int:
    if args.tiny:
        torch.set_num_threads(1)
        tiny = gpu_models.TINY, gpu_models.TINY_DRAFT
        large = gpu_models.TINY
        plan = Plan(torch.device("cpu"), *tiny, *tiny, large, "f32", 64, 24, 64, 3, not args.no_peers)
    elif not torch.accelerator.is_available():
        raise RequestError(
            "bench gpu measures a GPU and PyTorch sees none here; run it where there is one, or --tiny to rehearse it."
        )
    else:
        device = torch.device(torch.accelerator.current_accelerator().type, 0)
        plan = Plan(device, gpu_models.LLAMA_3_1_8B, gpu_models.LLAMA_3_2_1B, peers=not args.no_peers)
        if args.quick:
            plan = Plan(device, plan.target, plan.draft, tokens=64, said=2000, repeats=20, peers=plan.peers)
    report = Report(args.json, args.budget or (150.0 if args.quick else 420.0))
    parts = measure(plan, report)
    for name, figure in parts["goals"].items():
        goal = "" if figure["goal"] is None else f" (goal {figure['goal']}: {'met' if figure['met'] else 'missed'})"
        print(f"{name}: {figure['measured']:.3f}{goal}")
    return 0
