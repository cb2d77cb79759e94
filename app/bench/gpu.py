"""`bench gpu`: what a card gives this playground, in one run and one JSON: bandwidth, passes by width, the draft with
its draw, both arms, the host's share, transformers on the same weights, and whether greedy arms agree.

Times come from random weights of real shapes (`gpu_models`), acceptance and text from the embedded pair where it is at
hand. Each part is written down as soon as it is measured, and one that fails says why and does not stop the others.
"""

from __future__ import annotations

import argparse
import gc
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from app.backends.torch import devices, precision
from app.backends.torch.model import TorchModel
from app.backends.torch.network import Network
from app.bench import gpu_models, gpu_peers
from app.bench.gpu_arms import arm, same_text
from app.bench.gpu_embedded import same_text_embedded
from app.bench.gpu_goals import goals
from app.bench.gpu_passes import bandwidth, drafting, found_identity, matmuls, passes, plain_passes, profile
from app.bench.gpu_plan import SAMPLINGS, Plan
from app.bench.gpu_report import AFTER, LONGEST, Report
from app.errors import RequestError

HALF_SURE = 4.2  # about the largest of 49,152 logits that spread by 1
FILE = "bench-gpu.json"
"""Where a card's figures go unless told otherwise."""
SAID_SMALL = 2048  # tokens compared of random weights; those of the real pair are counted


@dataclass(frozen=True, slots=True)
class Models:
    """The pair of real shapes, and the networks it is of."""

    target_network: Network
    draft_network: Network
    target: TorchModel
    draft: TorchModel

    @staticmethod
    def of(plan: Plan) -> Models:
        dtype = precision.NAMES[plan.dtype]
        one = gpu_models.network(plan.target, plan.device, dtype)
        two = gpu_models.network(plan.draft, plan.device, dtype, wrong=0.3, seed=1)
        target = gpu_models.model(one, plan.target, "target", plan.dtype)
        return Models(one, two, target, gpu_models.model(two, plan.draft, "draft", plan.dtype))

    def sizes(self) -> dict[str, Any]:
        """Bytes, and whether the kernels are the fused ones."""
        embeddings = self.target_network.stages[0].embeddings
        assert embeddings is not None
        return {
            "target_bytes": self.target.memory(),
            "read_a_pass": self.target.memory() - embeddings.nbytes,
            "draft_bytes": self.draft.memory(),
            "fused_kernels": "used" if self.target.unfused is None else f"not used: {self.target.unfused}",
        }

    def recorded(self) -> dict[str, Any]:
        """How many programs are recorded, and why those that are not were not."""
        programs = [each for model in (self.target, self.draft) for each in model.programs()]
        faults = sorted({each.fault for each in programs if each.fault is not None})
        return {"graphs": self.target.graphs, "programs": len(programs), "faults": faults}


def measure(plan: Plan, report: Report) -> dict[str, Any]:
    """All parts; returns them."""
    report.parts["machine"] = {
        "device": devices.device_name(plan.device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "dtype": plan.dtype,
        "context": plan.context,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    report.part("bandwidth", lambda: bandwidth(plan.device))
    models = report.part("models", lambda: Models.of(plan), shown=Models.sizes)
    if models is not None:
        real_shapes(plan, report, models)
    report.part("same_text_embedded", lambda: embedded(plan, report), needs=plan.said / 150)
    del models
    _let_go(plan.device)
    small = report.part("small_pair", lambda: small_pair(plan), shown=lambda pair: [each.memory() for each in pair])
    if small is not None:
        report.part("identity_small", lambda: found_identity(small[0]), needs=5)
        report.part("same_text_small", lambda: same_text_small(plan, *small), needs=min(plan.said, SAID_SMALL) / 200)
    report.part("int4", lambda: four_bits(plan, plan.target), needs=15)
    _let_go(plan.device)
    report.part("int4_large", lambda: four_bits(plan, plan.large), needs=60)
    report.parts["goals"] = goals(report.parts)
    report.parts.setdefault("seconds", {})["all"] = round(report.seconds, 1)
    report.write()
    return report.parts


def real_shapes(plan: Plan, report: Report, models: Models) -> None:
    """Passes, arms and peers of the pair of real shapes."""
    target, draft = models.target, models.draft
    report.part("passes", lambda: passes(target, plan, plan.context))
    report.part("draft_ms", lambda: drafting(draft, plan))
    report.part("identity", lambda: found_identity(target), needs=5)
    report.part("passes_settled", lambda: passes(target, plan, plan.context))
    report.part("target_alone", lambda: arm(target, None, plan, 1, SAMPLINGS["T = 0"]))
    for name, sampling in SAMPLINGS.items():
        for k in (5,) if name != "T = 0" else (3, 5, 8):
            report.part(f"speculative k = {k}, {name}", partial(arm, target, draft, plan, k, sampling), needs=4)
    for name in ("T = 1", "T = 1, top_p 0.95"):
        report.part(f"target_alone, {name}", partial(arm, target, None, plan, 1, SAMPLINGS[name]), needs=4)
    report.part("recorded", models.recorded)
    if plan.peers:
        report.part("transformers", lambda: peers(plan, models.target_network, models.draft_network), needs=25)
    report.part("same_text_flat", lambda: same_text_flat(plan, models), needs=10)
    report.part("profile_target", lambda: profile(target, plan), needs=3)
    report.part("profile_draft", lambda: profile(draft, plan), needs=3)
    copy = report.parts["bandwidth"].get("copy_bytes_s", float("nan"))
    report.part("matmuls", lambda: matmuls(plan, copy), needs=6)
    report.part("passes_plain", lambda: plain_passes(models.target_network, plan), needs=6)
    report.part("passes_long", lambda: passes(target, plan, 7 * plan.context), needs=5)


def _let_go(device: Any) -> None:
    """Give memory back for what comes next; models and their caches hold on to each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def same_text_flat(plan: Plan, models: Models) -> dict[str, Any]:
    """Both arms on near ties everywhere."""
    of = gpu_models.flat(models.target_network)
    hard = gpu_models.model(of, plan.target, "target, flat", plan.dtype)
    hard.widths, hard.bit_identical = models.target.widths, models.target.bit_identical
    prompts = [gpu_models.chain(plan.target.vocab_size, 24, 11 * i + 1) for i in range(3)]
    return same_text(hard, models.draft, prompts, min(plan.tokens, 200))


def same_text_small(plan: Plan, small: TorchModel, draft: TorchModel) -> dict[str, Any]:
    """Both arms of the pair that has the embedded one's shape, and random weights."""
    each, said = 256, min(plan.said, SAID_SMALL)
    prompts = [gpu_models.chain(plan.small.vocab_size, 16, 13 * i + 1) for i in range(-(-said // each))]
    return same_text(small, draft, prompts, each)


def embedded(plan: Plan, report: Report) -> dict[str, Any]:
    """Both arms of the embedded pair, for as long as a part may take."""
    left = min(LONGEST, report.budget + AFTER - report.seconds)
    return same_text_embedded(str(plan.device), plan.said, 0.8 * left)


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


def main(args: argparse.Namespace) -> int:
    path = args.json if args.json is not None or args.tiny or args.embedded else Path(FILE)
    if path is not None and not path.resolve().parent.is_dir():
        raise RequestError(f"There is no folder for {path}; choose another file.")
    plan = None if args.embedded else _plan(args)
    report = Report(path, args.budget or (120.0 if args.quick else 420.0))
    try:
        report.write()  # what cannot be written is known before anything is measured
    except OSError as error:
        raise RequestError(f"{path} cannot be written ({error.strerror}); choose another file with --json.") from None
    if plan is None:
        device = str(devices.choose_device(args.device))
        measure_ = partial(same_text_embedded, device, args.tokens, report.budget, args.first)
        report.part("same_text_embedded", measure_, most=report.budget + AFTER)
        report.parts["goals"] = goals(report.parts)
        report.write()
    else:
        measure(plan, report)
    for name, figure in report.parts["goals"].items():
        goal = "" if figure["goal"] is None else f" (goal {figure['goal']}: {'met' if figure['met'] else 'missed'})"
        print(f"{name}: {figure['measured']:.3f}{goal}")
    for name, why in report.missing().items():
        print(f"{name}: not measured ({why})")
    for line in () if args.tiny else slower(report.parts):
        print(line)
    if path is not None:
        print(f"All figures: {path}")
    return 0


def slower(parts: Mapping[str, Any]) -> list[str]:
    """What of this machine makes the figures worse than its card's, as sentences."""
    kernels = parts.get("models", {}).get("fused_kernels", "")
    lines = [f"fused kernels are {kernels}"] if kernels.startswith("not used") else []
    lines += [f"a pass was not recorded: {why}" for why in parts.get("recorded", {}).get("faults", ())]
    return [f"Slower than this card could be: {each}" for each in lines]


def _plan(args: argparse.Namespace) -> Plan:
    if args.tiny:
        torch.set_num_threads(1)
        tiny = gpu_models.TINY, gpu_models.TINY_DRAFT
        return Plan(torch.device("cpu"), *tiny, *tiny, gpu_models.TINY, "f32", 64, 24, 64, 3, not args.no_peers)
    if not torch.accelerator.is_available():
        raise RequestError(
            f"bench gpu measures a GPU and PyTorch sees none here ({devices.why_no_accelerator()}); run it where there "
            "is one, or --tiny to rehearse it."
        )
    device = torch.device(devices.accelerator(), 0)
    plan = Plan(device, gpu_models.LLAMA_3_1_8B, gpu_models.LLAMA_3_2_1B, peers=not args.no_peers)
    return replace(plan, tokens=64, said=2000, repeats=20) if args.quick else plan
