"""`bench`: the full comparison; `bench MEASUREMENT`: one figure of it. Figures with the command that made them."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from app.cli import numbers
from app.errors import RequestError
from app.pairs.options import PairOptions
from app.pairs.registry import load
from app.places import ASSETS
from app.record.limits import MAX_K, MAX_SEED, MAX_TEMPERATURE, MAX_TOKENS, MIN_K

README = Path(__file__).with_name("README.md")
PROMPTS = ASSETS / "prompts.json"
PAGE = {"starts": 5, "turns": 3, "k": 3, "max_tokens": 128}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='a JSON list of {"category", "prompt"}')
    parser.add_argument(
        "--count", type=numbers.whole(1), default=48, help="prompts of the list, one of each category in turn"
    )
    parser.add_argument("--k", default="2,3,4,5,8", metavar="K,K,...", help="windows; k = auto is always measured too")
    parser.add_argument(
        "--pair", type=Path, metavar="FILE", help="another pair than the embedded one: a pair file (.toml)"
    )
    parser.add_argument(
        "--dtypes", help="precisions; the first meets the peers (default: int8,bf16; of a pair file, the file's)"
    )
    parser.add_argument("--peers", default="all", help="all, none, or names separated by commas")
    parser.add_argument(
        "--max-tokens", type=numbers.whole(1, MAX_TOKENS), default=48, help="where an answer ends at the latest"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with plots")
    parser.add_argument("--readme", action="store_true", help="put the table into app/bench/README.md")
    parser.add_argument("--page", action="store_true", help="only what an open page costs (as `bench page`)")
    parser.set_defaults(measurement=None)
    measurements = parser.add_subparsers(dest="measurement", metavar="MEASUREMENT")
    acceptors = measurements.add_parser("acceptors", help="what each acceptor keeps on the embedded pair")
    acceptors.add_argument("--prompts", type=Path, default=PROMPTS, help='a JSON list of {"category", "prompt"}')
    acceptors.add_argument(
        "--count", type=numbers.whole(1), default=12, help="prompts, spread over the file's categories"
    )
    acceptors.add_argument("--k", type=numbers.whole(MIN_K, MAX_K), default=5, help="window")
    acceptors.add_argument(
        "--temperature", type=numbers.real(most=MAX_TEMPERATURE), default=1.0, help="0: the likeliest token, always"
    )
    acceptors.add_argument(
        "--max-tokens", type=numbers.whole(1, MAX_TOKENS), default=96, help="where an answer ends at the latest"
    )
    acceptors.add_argument(
        "--seed", type=numbers.whole(0, MAX_SEED), default=0, help="the same seed draws the same text again"
    )
    cards = measurements.add_parser("cards", help="how far the speculative arm leads on each example card of the page")
    cards.add_argument("--repeats", type=numbers.whole(1), default=5, help="runs of each card, after one that warms up")
    cards.add_argument("--prompts", type=Path, metavar="FILE", help="measure these prompts instead, as candidates")
    cards.add_argument("--k", type=numbers.whole(MIN_K, MAX_K), default=4, help="window of the candidates")
    cards.add_argument("--write", action="store_true", help="put the page's cards into the order measured")
    gpu = measurements.add_parser(
        "gpu", help="what a GPU gives: bandwidth, passes, both arms, transformers beside them"
    )
    gpu_arguments(gpu)
    memory = measurements.add_parser("memory", help="what a pair holds once it runs, and its peak, in a fresh process")
    memory.add_argument("--backend", default="openvino", help="engine, as for serve")
    memory.add_argument("--target", type=Path, metavar="PATH", help="a .gguf file or a model directory")
    memory.add_argument("--draft", type=Path, metavar="PATH", help="its draft model")
    memory.add_argument("--dtype", help="precision")
    memory.add_argument("--n-positions", type=numbers.whole(2), metavar="N", help="longest context")
    page = measurements.add_parser("page", help="time per token with the page open, against no page")
    page.add_argument(
        "--starts", type=numbers.whole(1), default=PAGE["starts"], help="how often both sides are loaded anew"
    )
    page.add_argument("--turns", type=numbers.whole(1), default=PAGE["turns"], help="turns of each start")
    page.add_argument(
        "--max-tokens",
        type=numbers.whole(2, MAX_TOKENS),
        default=PAGE["max_tokens"],
        help="where an answer ends at the latest",
    )
    page.add_argument("--k", type=numbers.whole(MIN_K, MAX_K), default=PAGE["k"], help="window")
    crowd = measurements.add_parser("load", help="what many visitors at once do to the page, of a toy pair")
    crowd.add_argument(
        "--runs", type=numbers.whole(1), default=1000, help="runs that are read, stopped or left, at random"
    )


def main(args: argparse.Namespace) -> int:
    if args.measurement is None:
        return _page(**PAGE) if args.page else _compare(args)
    if args.measurement == "gpu":
        return _gpu(args)
    if args.measurement == "load":
        from app.bench.load import figures

        figures(args.runs, partial(print, flush=True))
        return 0
    if args.measurement == "page":
        return _page(args.starts, args.turns, args.k, args.max_tokens)
    if args.measurement == "cards":
        return _cards(args)
    if args.measurement == "memory":
        return _memory(args)
    from app.bench.acceptors import table
    from app.engine.session import Session

    session = Session(load(PairOptions()))
    for line in table(
        session, read_prompts(args.prompts)[: args.count], args.k, args.temperature, args.max_tokens, args.seed
    ):
        print(line, flush=True)
    return 0


def gpu_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench gpu`."""
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where the results are written (default: bench-gpu.json; with --tiny or --embedded nowhere)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="in about 150 seconds: shorter answers, fewer tokens compared"
    )
    parser.add_argument(
        "--budget",
        type=numbers.real(0, most=1e7),
        metavar="SECONDS",
        help="begin no other part after (default: 420; quick: 120)",
    )
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the processor: a rehearsal, no figures")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers out")
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="only whether both arms of the embedded pair say the same; on any device",
    )
    parser.add_argument(
        "--device", help="with --embedded: cuda, cuda:1, mps or cpu (default: the GPU, where there is one)"
    )
    parser.add_argument(
        "--tokens", type=numbers.whole(1), default=10_000, help="with --embedded: how many are compared"
    )
    parser.add_argument(
        "--first", type=numbers.whole(0), default=0, metavar="N", help="with --embedded: the question to begin with"
    )


def _gpu(args: argparse.Namespace) -> int:
    try:
        from app.bench import gpu
    except ImportError as error:
        raise RequestError(
            f"bench gpu needs PyTorch ({error}); start it by ./launch.sh bench gpu, which installs it."
        ) from None
    return gpu.main(args)


def _cards(args: argparse.Namespace) -> int:
    from app.bench import cards
    from app.engine.session import Session

    listed = cards.read_cards() if args.prompts is None else cards.candidates(read_prompts(args.prompts), args.k)
    leads: list[cards.Lead] = []
    for line in cards.table(Session(load(PairOptions())), listed, args.repeats, leads):
        print(line, flush=True)
    first = cards.ordered(listed, leads)[0]
    print(f"\nFirst: {first['title']}")
    if args.write and args.prompts is None:
        cards.write(cards.ordered(listed, leads))
    return 0


def _memory(args: argparse.Namespace) -> int:
    from app.bench.memory import measured

    names = ("backend", "target", "draft", "dtype", "n_positions")
    print(json.dumps(measured(PairOptions(**{name: getattr(args, name) for name in names}))))
    return 0


def _page(starts: int, turns: int, k: int, max_tokens: int) -> int:
    from app.bench.page import page_cost

    print(page_cost(starts, turns, k, max_tokens))
    return 0


def _compare(args: argparse.Namespace) -> int:
    from app.backends.checkpoints import hub_models
    from app.bench import compare, peers, report
    from app.pairs import pair_files

    try:
        ks = sorted({int(k) for k in args.k.split(",")})
    except ValueError:
        raise RequestError(f"--k is {args.k!r}; write windows separated by commas, such as 2,3,5.") from None
    chosen = {"all": peers.ALL, "none": ()}.get(args.peers, tuple(args.peers.split(",")))
    prompts = read_prompts(args.prompts)[: args.count]
    pair = PairOptions() if args.pair is None else hub_models.local(pair_files.read(args.pair))
    dtypes = [pair.dtype] if args.pair is not None else ["int8", "bf16"]
    if args.dtypes is not None:
        dtypes = args.dtypes.split(",")
    if args.readme and args.pair is not None:
        raise RequestError("The table of app/bench/README.md is the embedded pair's; leave --readme or --pair out.")
    plan = compare.Plan(prompts, ks, dtypes, chosen, args.max_tokens, pair=pair)
    compare.check(plan)
    for path in (args.json, args.html):
        if path is not None and not path.resolve().parent.is_dir():
            raise RequestError(f"There is no folder for {path}; choose another file.")
    result = compare.compare(plan)
    print("\n".join(report.table(result)))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.html is not None:
        args.html.write_text(report.page(result), encoding="utf-8")
    if args.readme:
        report.into_readme(result, README)
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
            f'{path} is no JSON list of {{"category", "prompt"}} ({type(error).__name__}); choose '
            "another with --prompts."
        ) from None
    if not by_category:
        raise RequestError(f"{path} holds no prompt; choose another with --prompts.")
    longest = max(map(len, by_category.values()))
    return [prompts[i] for i in range(longest) for prompts in by_category.values() if i < len(prompts)]
