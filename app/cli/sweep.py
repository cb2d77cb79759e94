"""`sweep`: which window k is best."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from app.bench.cli import PROMPTS, read_prompts
from app.cli import flags
from app.errors import RequestError
from app.record.limits import DEFAULT_KS
from app.record.sweep import check, sentences, sweep, table
from app.record.trace import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.pair_flags(parser)
    parser.add_argument("--ks", type=flags.windows, default=DEFAULT_KS, metavar="K,K,...", help="windows to compare")
    parser.add_argument("--prompt", action="append", help="may be given several times (default: --prompts)")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='a JSON list of {"category", "prompt"}')
    parser.add_argument("--count", type=int, default=6, help="prompts of the list, one of each category in turn")
    parser.add_argument("--repeats", type=int, default=1, help="times every prompt is run with every window")
    flags.sampling_flags(parser)
    parser.add_argument("--max-tokens", type=int, default=96, help="where an answer ends at the latest")
    parser.add_argument("--acceptor", default="rejection", help="a built-in name, or package.module:Name")
    parser.add_argument("--json", action="store_true", help="one JSON object; progress goes to standard error")


def main(options: argparse.Namespace) -> int:
    prompts = options.prompt or read_prompts(options.prompts)[: max(options.count, 0)]
    if options.repeats < 1:
        raise RequestError(f"{options.repeats} repeats measure nothing; choose 1 or more.")
    check(flags.promised(options).windows, prompts, options.ks)
    request = Request(
        prompt=prompts[0],
        max_tokens=options.max_tokens,
        sampling=flags.sampling(options),
        acceptor=options.acceptor,
    )
    session = flags.session(options, requests=[replace(request, k=k) for k in options.ks])
    for step in sweep(session, request, prompts, options.ks, options.repeats):
        if not step.within:
            print(f"{step.done} of {step.total} {step.doing}", file=sys.stderr, flush=True)
    measured = step.sweep
    if options.json:
        print(json.dumps(measured.to_json()))
        return 0
    print(f"{measured.pair}, {session.target.dtype}, {len(prompts)} prompts, temperature {options.temperature:g}")
    print(*table(measured), *sentences(measured), sep="\n")
    for other in measured.elsewhere:
        print(
            f"Projection, not a measurement: with this acceptance {other.pair.target} + {other.pair.draft} on Trainium "
            f"({other.pair.target_ms:g} and {other.pair.draft_ms:g} ms) would be best at k = {other.k}, "
            f"{other.tpot_ms:.1f} ms a token ({other.speedup:.2f} times)."
        )
    return 0
