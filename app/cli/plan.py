"""`plan`: size a pair for AWS Neuron, without any hardware."""

from __future__ import annotations

import argparse
import json
import sys

from app.cli import numbers
from app.neuron.catalogue import LIBRARIES, TRANSFORMERS_NEURONX
from app.neuron.memory import GB
from app.neuron.plan import Plan, plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `plan`."""
    parser.add_argument("--instance", default="trn1.32xlarge", help="Neuron instance type")
    parser.add_argument("--target", default="llama-2-70b", help="catalogue name or path of a config.json")
    parser.add_argument("--draft", default="llama-2-7b", help="catalogue name or path of a config.json")
    parser.add_argument("--dtype", default="bf16", help="bf16, f16 or f32")
    parser.add_argument(
        "--n-positions", type=numbers.whole(2), default=2048, help="longest sequence, prompt and answer, in tokens"
    )
    parser.add_argument(
        "--tp-degree", type=numbers.whole(1, 1024), help="judge this degree instead of recommending one"
    )
    parser.add_argument("--draft-tp-degree", type=numbers.whole(1, 1024), help="the draft's, where it differs")
    parser.add_argument(
        "--neuron-library", default=TRANSFORMERS_NEURONX, choices=LIBRARIES, help="the library that is to run it"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def main(args: argparse.Namespace) -> int:
    """Print the plan; exit code 0 where it works, 2 where it is refused, with the reason on standard error."""
    result = plan(
        args.instance,
        args.target,
        args.draft,
        args.dtype,
        args.n_positions,
        target_tp=args.tp_degree,
        draft_tp=args.draft_tp_degree,
        library=args.neuron_library,
    )
    print(json.dumps(result.to_dict(), indent=2) if args.json else render_text(result))
    if not result.ok:
        print(result.refusals[0], file=sys.stderr)
    return 0 if result.ok else 2


def render_text(plan: Plan) -> str:
    """The plan for a terminal."""
    lines = [
        f"{plan.target.name} with {plan.draft.name} on {plan.instance.name}, {plan.dtype}, "
        f"{plan.n_positions} positions: " + ("works" if plan.ok else "cannot work")
    ]
    lines += [f"  refused: {refusal}" for refusal in plan.refusals]
    for role, model in (("target", plan.target), ("draft", plan.draft)):
        least = "none of this instance" if model.min_tp_degree is None else f"at least {model.min_tp_degree}"
        lines.append(
            f"  {role:<7} {model.name}: {model.memory_bytes / GB:.1f} GB (estimate), {model.cores_phrase}; "
            f"tp_degree {least}" + ("" if model.tp_degree is None else f", here {model.tp_degree}")
        )
    lines.append(f"  pair    {plan.pair_bytes / GB:.0f} GB of {plan.instance.device_bytes / GB:.0f} GB")
    if plan.per_core is not None:
        lines.append(f"  a core  {plan.per_core.total / GB:.1f} of {plan.per_core.capacity / GB:.1f} GB (estimate)")
    lines += [f"  why: {reason}" for reason in plan.reasons]
    lines += [f"  {step}. {text}" for step, text in enumerate(plan.load_order, 1)]
    lines += [f"  warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)
