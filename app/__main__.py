"""The command line: flags become a pair, a request, a page. The one place that sees both halves of the house.

Every command exits 0, or 2 with one sentence on standard error when what was asked for cannot work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from app.bench import cli as bench
from app.distill import cli as distill
from app.errors import PlaygroundError, RequestError, TraceError
from app.neuron import planner
from app.record import sweep as sweeping
from app.record import trace
from app.record.metrics import Metrics
from app.record.trace import Request, Sampling

if TYPE_CHECKING:
    from app.engine.session import Session
    from app.pairs import registry as pairs

BAD_INPUT = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage and a message."""
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read us has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="./launch.sh", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    serve = commands.add_parser("serve", help="the page (default)")
    _pair_flags(serve)
    serve.add_argument("--pairs", type=Path, metavar="DIR", help="offer the pair files (.toml) in DIR on the page")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=7860)
    serve.add_argument("--acceptor", metavar="MODULE:NAME", help="offer a custom acceptor on the page")
    serve.add_argument("--auth", metavar="USER:PASSWORD", help="ask for a login")
    serve.add_argument("--replay", type=Path, metavar="FILE", help="show a recorded trace, without loading a model")
    serve.set_defaults(command=_serve)

    run = commands.add_parser("run", help="one request, no browser")
    _pair_flags(run)
    run.add_argument("--prompt", required=True)
    run.add_argument("--system", default="", help="system prompt (default: the model's own)")
    run.add_argument("--raw", action="store_true", help="feed the prompt as it is, without the chat template")
    run.add_argument("--arm", default="both", choices=("both", "target", "speculative"))
    run.add_argument("--k", type=_k, default=3, help="window: the last known token and k - 1 drafted ones; or auto")
    run.add_argument("--temperature", type=float, default=0.0)
    run.add_argument("--top-p", type=float, default=1.0)
    run.add_argument("--top-k", type=int, default=0)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--max-tokens", type=int, default=128)
    run.add_argument("--acceptor", default="rejection", help="a built-in name, or package.module:Name")
    run.add_argument("--drafter", help="draft (default), lookup (no model: copies from the text) or draft+lookup")
    run.add_argument("--engine", default="own", choices=("own", "upstream"), help="neuron: compare with the stock loop")
    run.add_argument("--json", action="store_true", help="events as JSON lines, the last line a summary")
    run.add_argument("--out", type=Path, metavar="FILE", help="also write the trace to FILE")
    run.set_defaults(command=_run)

    tune = commands.add_parser("sweep", help="which window k is best: measured beside predicted")
    _pair_flags(tune)
    tune.add_argument("--ks", type=_windows, default=sweeping.DEFAULT_KS, metavar="K,K,...", help="windows to compare")
    tune.add_argument("--prompt", action="append", help="may be given several times (default: --prompts)")
    tune.add_argument("--prompts", type=Path, default=bench.PROMPTS, help='a JSON list of {"category", "prompt"}')
    tune.add_argument("--count", type=int, default=6, help="prompts of the list, one of each category in turn")
    tune.add_argument("--repeats", type=int, default=1, help="times every prompt is run with every window")
    tune.add_argument("--temperature", type=float, default=0.0)
    tune.add_argument("--top-p", type=float, default=1.0)
    tune.add_argument("--top-k", type=int, default=0)
    tune.add_argument("--seed", type=int, default=0)
    tune.add_argument("--max-tokens", type=int, default=96)
    tune.add_argument("--acceptor", default="rejection", help="a built-in name, or package.module:Name")
    tune.add_argument("--json", action="store_true", help="one JSON object; progress goes to standard error")
    tune.set_defaults(command=_sweep)

    plan = commands.add_parser("plan", help="size a pair for AWS Neuron")
    planner.add_arguments(plan)
    plan.set_defaults(command=planner.main)

    distil = commands.add_parser("distill", help="make and evaluate a draft for a target")
    distill.add_arguments(distil)
    distil.set_defaults(command=distill.main)

    measure = commands.add_parser("bench", help="measure the embedded pair")
    bench.add_arguments(measure)
    measure.set_defaults(command=bench.main)

    export = commands.add_parser("export", help="a trace file to one self-contained HTML page")
    export.add_argument("trace", type=Path)
    export.add_argument("--out", type=Path, metavar="FILE", help="default: the trace's name with .html")
    export.set_defaults(command=_export)
    return parser


def _pair_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pair", type=Path, metavar="FILE", help="a pair file (.toml); flags beside it have precedence"
    )
    parser.add_argument("--backend", help="engine: openvino (default), torch or neuron")
    parser.add_argument(
        "--target", type=Path, metavar="PATH", help="a .gguf file, a model directory or (torch) a Hub id"
    )
    parser.add_argument("--draft", type=Path, metavar="PATH", help="its draft model")
    parser.add_argument(
        "--dtype", help="precision: int8 (openvino's default), bf16 (neuron's, and a GPU's), f16 or f32"
    )
    parser.add_argument(
        "--device", help="torch: cuda, cuda:1, mps or cpu (default: the fastest, several GPUs if needed)"
    )
    parser.add_argument("--revision", metavar="REV", help="torch: branch, tag or commit of a target on the Hub")
    parser.add_argument("--draft-revision", metavar="REV", help="torch: the same for the draft")
    parser.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    parser.add_argument("--n-positions", type=int, metavar="N", help="longest context (default: the model's)")
    parser.add_argument("--tp-degree", type=int, metavar="N", help="neuron: cores both models share (default: planned)")
    parser.add_argument("--windows", type=_windows, metavar="K,K,...", help="neuron: the windows to compile")
    parser.add_argument(
        "--neuron-artifacts", dest="artifacts", type=Path, metavar="DIR", help="neuron: keep compiled programs there"
    )


def _windows(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of windows such as 2,3,5") from None


def _k(text: str) -> int:
    try:
        return trace.named_k(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no window such as 4, nor auto") from None


def _pair_options(options: argparse.Namespace) -> pairs.PairOptions:
    from app.pairs import pair_files
    from app.pairs import registry as pairs

    named = {field.name: getattr(options, field.name) for field in dataclasses.fields(pairs.PairOptions)}
    given = {name: value for name, value in named.items() if value is not None}
    written = pairs.PairOptions() if options.pair is None else pair_files.read(options.pair)
    return dataclasses.replace(written, **given)


def _session(options: argparse.Namespace, acceptor: str | None, folder: Path | None = None) -> Session:
    """The session of the pair that the flags name. folder: the pairs it may switch to."""
    from app.engine.acceptance import load_custom
    from app.engine.session import Session
    from app.pairs import pair_files
    from app.pairs import registry as pairs

    custom = load_custom(acceptor) if acceptor and ":" in acceptor else None
    own = _pair_options(options)
    listed: dict[str, pairs.PairOptions] = {}
    if folder is not None:
        others = pair_files.listed(folder)
        name = next((name for name, other in others.items() if other == own), None)
        listed = {name or "as started": own, **others}
    return Session(pairs.load(own), custom, listed)


def _serve(options: argparse.Namespace) -> int:
    from app.ui import serve

    auth = None if options.auth is None else _credentials(options.auth)
    serve.check_port(options.host, options.port)
    replay = None if options.replay is None else read_trace(options.replay)
    session = None if replay is not None else _session(options, options.acceptor, options.pairs)
    serve.serve(session, replay, host=options.host, port=options.port, auth=auth)
    return 0


def _credentials(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not user or not password:
        raise RequestError("--auth wants USER:PASSWORD, both not empty.")
    return user, password


def _run(options: argparse.Namespace) -> int:
    session = _session(options, options.acceptor)
    request = Request(
        prompt=options.prompt,
        system=options.system,
        chat_template=not options.raw,
        max_tokens=options.max_tokens,
        k=options.k,
        sampling=Sampling(options.temperature, options.top_p, options.top_k, options.seed),
        acceptor=options.acceptor,
        drafter=options.drafter or session.drafters[0],
        arms=options.arm,
    )
    if ":" in options.acceptor:
        request = dataclasses.replace(request, acceptor=session.acceptors[-1].name)
    metrics, events = Metrics(), []
    with closing(session.run(request, upstream=options.engine == "upstream")) as run:
        for event in run:
            metrics.add(event)
            events.append(event)
            if options.json:
                print(trace.dumps(event), flush=True)
    if options.out is not None:
        try:
            options.out.write_text("".join(trace.write(events)), encoding="ascii")
        except OSError as error:
            raise RequestError(
                f"The trace cannot be written to {options.out} ({error.strerror}); choose another file."
            ) from None
    if options.json:
        print(json.dumps(metrics.summary()))
    else:
        _print_figures(metrics)
    if metrics.reason == "error":
        print(metrics.message, file=sys.stderr)
        return BAD_INPUT
    return 0


def _sweep(options: argparse.Namespace) -> int:
    prompts = options.prompt or bench.read_prompts(options.prompts)[: max(options.count, 0)]
    if options.repeats < 1:
        raise RequestError(f"{options.repeats} repeats measure nothing; choose 1 or more.")
    session = _session(options, options.acceptor)
    request = Request(
        max_tokens=options.max_tokens,
        sampling=Sampling(options.temperature, options.top_p, options.top_k, options.seed),
        acceptor=session.acceptors[-1].name if ":" in options.acceptor else options.acceptor,
    )
    for step in sweeping.sweep(session, request, prompts, options.ks, options.repeats):
        if not step.within:
            print(f"{step.done} of {step.total} {step.doing}", file=sys.stderr, flush=True)
    found = step.sweep
    if options.json:
        print(json.dumps(found.to_json()))
        return 0
    print(f"{found.pair}, {session.target.dtype}, {len(prompts)} prompts, temperature {options.temperature:g}")
    print(*sweeping.table(found), *sweeping.sentences(found), sep="\n")
    for other in found.elsewhere:
        print(
            f"Projection, not a measurement: with this acceptance {other.pair.target} + {other.pair.draft} on Trainium "
            f"({other.pair.target_ms:g} and {other.pair.draft_ms:g} ms) would be best at k = {other.k}, "
            f"{other.tpot_ms:.1f} ms a token ({other.speedup:.2f} times)."
        )
    return 0


def _print_figures(metrics: Metrics) -> None:
    summary = metrics.summary()
    for name, arm in summary["arms"].items():
        print(f"--- {name} ---\n{arm['text']}\n")
    for name, arm in summary["arms"].items():
        tpot = "–" if arm["tpot_s"] is None else f"{1e3 * arm['tpot_s']:.1f} ms"
        length = arm["mean_acceptance_length"]
        print(
            f"{name:12} {arm['tokens']} tokens, TPOT {tpot}, TTFT {1e3 * arm['ttft_s']:.0f} ms"
            + (f", mean acceptance length {length:.2f}" if name == "speculative" and length else "")
        )
    if summary["speedup"]:
        same = summary["first_divergence"] is None
        text = "the same text, bit for bit" if same else f"the texts part at token {summary['first_divergence']}"
        print(f"{'speedup':12} {summary['speedup']:.2f}x; {text}")


def _export(options: argparse.Namespace) -> int:
    from app.ui.export import export_html

    out = options.out or options.trace.with_suffix(".html")
    html = export_html(read_trace(options.trace))
    try:
        out.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"The page cannot be written to {out} ({error.strerror}); choose another file.") from None
    print(out)
    return 0


def read_trace(path: Path) -> trace.Trace:
    """The trace in a file, checked. Raises TraceError."""
    try:
        if path.stat().st_size > trace.MAX_TRACE_BYTES:
            raise TraceError(
                f"{path} is larger than {trace.MAX_TRACE_BYTES // 2**20} MiB, which no run of this playground is."
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(
            f"{path} cannot be read ({error.strerror}); choose a .jsonl file exported by this playground."
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"{path} is not text; choose a .jsonl file exported by this playground.") from None
    return trace.read(text.splitlines())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    raise SystemExit(main())
