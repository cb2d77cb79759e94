"""`bench MEASUREMENT`: figures with the command that made them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from app.errors import RequestError
from app.pairs import ROOT, PairOptions, load

PROMPTS = ROOT / "assets" / "prompts.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    measurements = parser.add_subparsers(dest="measurement", required=True, metavar="MEASUREMENT")
    acceptors = measurements.add_parser("acceptors", help="what each acceptor keeps on the embedded pair")
    acceptors.add_argument("--prompts", type=Path, default=PROMPTS)
    acceptors.add_argument("--count", type=int, default=12, help="prompts, spread over the file's categories")
    acceptors.add_argument("--k", type=int, default=5)
    acceptors.add_argument("--temperature", type=float, default=1.0)
    acceptors.add_argument("--max-tokens", type=int, default=96)
    acceptors.add_argument("--seed", type=int, default=0)
    page = measurements.add_parser("page", help="time per token with the page open, against no page")
    page.add_argument("--repeats", type=int, default=5)
    page.add_argument("--max-tokens", type=int, default=128)
    page.add_argument("--k", type=int, default=4)


def main(args: argparse.Namespace) -> int:
    if args.measurement == "page":
        from app.bench.page import page_cost

        print(page_cost(args.repeats, args.k, args.max_tokens))
        return 0
    from app.bench.acceptors import table
    from app.session import Session

    if args.count < 1:
        raise RequestError(f"{args.count} prompts cannot be measured; choose 1 or more.")
    session = Session(load(PairOptions()))
    for line in table(
        session, read_prompts(args.prompts)[: args.count], args.k, args.temperature, args.max_tokens, args.seed
    ):
        print(line, flush=True)
    return 0


def read_prompts(path: Path) -> list[str]:
    """The prompts of a JSON list of {"category", "prompt"}, one of each category in turn. Raises RequestError."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        by_category: dict[str, list[str]] = {}
        for entry in entries:
            by_category.setdefault(str(entry["category"]), []).append(str(entry["prompt"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(
            f'{path} is no JSON list of {{"category", "prompt"}} ({type(error).__name__}); choose another with --prompts.'
        ) from None
    longest = max(map(len, by_category.values()), default=0)
    return [prompts[i] for i in range(longest) for prompts in by_category.values() if i < len(prompts)]
