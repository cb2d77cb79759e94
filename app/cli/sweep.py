"""`sweep`: which window, acceptor, drafter, temperature or pair is best."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from app.bench.cli import PROMPTS, read_prompts
from app.cli import flags, numbers
from app.record.limits import DEFAULT_K, DEFAULT_KS, MAX_TEMPERATURE, K
from app.record.standing import Sweep
from app.record.sweep import REPEATS, check, sweep
from app.record.sweep_words import sentences, table, to_csv
from app.record.trace import Request
from app.record.variants import variants

T = TypeVar("T")


def _listed(one: Callable[[str], T], what: str) -> Callable[[str], tuple[T, ...]]:
    """The type of a flag that takes several, separated by commas."""

    def several(text: str) -> tuple[T, ...]:
        try:
            return tuple(one(part.strip()) for part in text.split(",") if part.strip())
        except (ValueError, argparse.ArgumentTypeError):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {what}") from None

    return several


_names = _listed(str, "names")
_ks: Callable[[str], tuple[K, ...]] = _listed(flags.window, "windows such as 2,3,auto")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.pair_flags(parser)
    parser.add_argument(
        "--ks",
        type=_ks,
        metavar="K,K,...",
        help=f"windows to compare, auto among them (default: {','.join(map(str, DEFAULT_KS))}, or --k "
        "where another list is given)",
    )
    parser.add_argument("--acceptors", type=_names, default=(), metavar="A,A,...", help="acceptors to compare")
    parser.add_argument("--drafters", type=_names, default=(), metavar="D,D,...", help="drafters to compare")
    parser.add_argument(
        "--temperatures",
        type=_listed(numbers.real(most=MAX_TEMPERATURE), f"numbers from 0 to {MAX_TEMPERATURE:g}"),
        default=(),
        metavar="T,T,...",
        help="temperatures to compare",
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="DIR", help="a folder of pair files to compare: precisions, drafts, engines"
    )
    parser.add_argument("--k", type=flags.window, default=DEFAULT_K, help="the window where --ks is not given")
    parser.add_argument("--prompt", action="append", help="may be given several times (default: --prompts)")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='a JSON list of {"category", "prompt"}')
    parser.add_argument(
        "--count", type=numbers.whole(1), default=6, help="prompts of the list, one of each category in turn"
    )
    parser.add_argument(
        "--repeats",
        type=numbers.whole(1),
        default=REPEATS,
        help=f"times every prompt is run with everything (default: {REPEATS})",
    )
    flags.sampling_flags(parser)
    parser.add_argument("--max-tokens", type=int, default=96, help="where an answer ends at the latest")
    parser.add_argument("--acceptor", default="rejection", help="a built-in name, or package.module:Name")
    parser.add_argument("--drafter", help="draft (default), lookup or draft+lookup")
    parser.add_argument("--json", action="store_true", help="one JSON object; progress goes to standard error")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to FILE, a line each")


def main(options: argparse.Namespace) -> int:
    prompts = options.prompt or read_prompts(options.prompts)[: options.count]
    others = options.acceptors or options.drafters or options.temperatures or options.pairs
    request = Request(
        prompt=prompts[0] if prompts else "",
        max_tokens=options.max_tokens,
        k=options.k,
        sampling=flags.sampling(options),
        acceptor=options.acceptor,
        drafter=options.drafter or "draft",
    )
    compared = variants(
        request,
        ks=options.ks or (() if others else DEFAULT_KS),
        acceptors=options.acceptors,
        drafters=options.drafters,
        temperatures=options.temperatures,
    )
    check(flags.promised(options).windows, prompts, compared)
    asked = [variant.request(request, prompts[0]) for variant in compared]
    session = flags.session(options, asked, folder=options.pairs)
    if not options.drafter and not options.drafters:
        compared = tuple(replace(variant, drafter=session.drafters[0]) for variant in compared)
    if options.pairs:
        compared = tuple(replace(variant, pair=pair) for pair in session.pairs for variant in compared)
    for step in sweep(session, request, prompts, compared, options.repeats, session.switch):
        if not step.within:
            print(f"{step.done} of {step.total} {step.doing}", file=sys.stderr, flush=True)
    measured = step.sweep
    if options.csv is not None:
        flags.write_text(options.csv, to_csv(measured), "The table")
    if options.json:
        print(json.dumps({**measured.to_json(), "words": sentences(measured)}))
        return 0
    print(
        f"{measured.pair}, {session.target.dtype}, {len(prompts)} prompts, {options.repeats} times each, temperature "
        f"{options.temperature:g}"
    )
    print(*table(measured), *sentences(measured), sep="\n")
    _print_use(measured)
    _print_elsewhere(measured)
    return 0


def _print_use(measured: Sweep) -> None:
    best = measured.best
    if best is not None and best.speedup > 1:
        pair = f" (with the pair {best.variant.pair})" if best.variant.pair else ""
        print(f"Use it: ./launch.sh run {best.variant.flags} --prompt ...{pair}")


def _print_elsewhere(measured: Sweep) -> None:
    for other in measured.elsewhere:
        print(
            f"Projection, not a measurement: with this acceptance {other.pair.target} + {other.pair.draft} on Trainium "
            f"({other.pair.target_ms:g} and {other.pair.draft_ms:g} ms) would be best at k = {other.k}, "
            f"{other.tpot_ms:.1f} ms a token ({other.speedup:.2f} times)."
        )
