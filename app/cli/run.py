"""`run`: one request, no browser; the answer as it comes, then the figures."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from app.cli import flags
from app.cli.answer import Answer, is_coloured, legend, tamed
from app.errors import BAD_INPUT, RequestError
from app.record import conversation, trace
from app.record.limits import DEFAULT_K, DEFAULT_MAX_TOKENS
from app.record.metrics import Metrics
from app.record.trace import Arm, Request, Round
from app.record.trace_files import open_trace

UPSTREAM = (
    "The speculative arm is upstream's own loop (--engine upstream): a reference for speed. It knows no temperature, "
    "and its text is not distributed as the target's."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.pair_flags(parser)
    parser.add_argument("--prompt", required=True, help="what is asked")
    parser.add_argument(
        "--messages",
        type=Path,
        metavar="FILE",
        help='go on from a trace file, or from earlier turns as JSON: [{"role": "user", "content": "..."}, ...]',
    )
    parser.add_argument(
        "--answer", choices=("target", "speculative"), help="whose answer of that trace is kept, where they differ"
    )
    parser.add_argument("--system", default="", help="system prompt (default: the model's own)")
    parser.add_argument("--raw", action="store_true", help="feed the prompt as it is, without the chat template")
    parser.add_argument(
        "--arm", default="both", choices=("both", "target", "speculative"), help="which of the two runs"
    )
    parser.add_argument(
        "--k", type=flags.window, default=DEFAULT_K, help="window: the last known token and k - 1 drafted ones; or auto"
    )
    flags.sampling_flags(parser)
    parser.add_argument("--max-tokens", type=int, default=DEFAULT_MAX_TOKENS, help="where an answer ends at the latest")
    parser.add_argument("--acceptor", default="rejection", help="a built-in name, or package.module:Name")
    parser.add_argument("--drafter", help="draft (default), lookup (no model: copies from the text) or draft+lookup")
    parser.add_argument(
        "--engine", default="own", choices=("own", "upstream"), help="neuron: compare with the stock loop"
    )
    parser.add_argument("--json", action="store_true", help="events as JSON lines, the last line a summary")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the trace to FILE")


def main(options: argparse.Namespace) -> int:
    upstream = options.engine == "upstream"
    request = Request(
        prompt=options.prompt,
        system=options.system,
        messages=_messages(options),
        chat_template=not options.raw,
        max_tokens=options.max_tokens,
        k=options.k,
        sampling=flags.sampling(options),
        acceptor=options.acceptor,
        drafter=options.drafter or "draft",
        arms=options.arm,
    )
    session = flags.session(options, requests=[request], upstream=upstream)
    if options.drafter is None:
        request = replace(request, drafter=session.drafters[0])
    for note in session.notes:
        print(note, file=sys.stderr)
    if upstream and not options.json:  # before its text: that must not be taken for the target's
        print(f"{UPSTREAM}\n")
    metrics, events = Metrics(), []
    followed: Arm = "target" if request.arms == "target" else "speculative"
    coloured = is_coloured(sys.stdout)
    with (
        closing(session.run(request, upstream=upstream)) as run,
        closing(Answer(sys.stdout, followed, metrics, coloured)) if not options.json else nullcontext() as answer,
    ):
        for event in run:
            metrics.add(event)
            events.append(event)
            if answer is None:
                print(trace.dumps(event), flush=True)
            elif isinstance(event, Round):
                answer.add(event)
    if options.out is not None:
        flags.write_text(options.out, "".join(trace.write(events)), "The trace")
    if options.json:
        print(json.dumps(metrics.summary()))
    else:
        _print_figures(metrics, followed, coloured)
    if metrics.reason == "error":
        print(metrics.message, file=sys.stderr)
        return BAD_INPUT
    return 0


def _messages(options: argparse.Namespace) -> tuple[dict[str, str], ...]:
    """The turns before the prompt. Raises PlaygroundError."""
    file: Path | None = options.messages
    if options.answer and (file is None or file.suffix != ".jsonl"):
        raise RequestError("--answer chooses between the answers of a trace; give a .jsonl one with --messages.")
    if file is None:
        return ()
    if file.suffix == ".jsonl":
        return conversation.after(open_trace(file), options.answer)
    try:
        with file.open("rb") as opened:
            return conversation.messages_of(json.loads(opened.read(trace.MAX_TRACE_BYTES)))
    except (OSError, ValueError, RecursionError):
        raise RequestError(
            f"{file} holds no conversation; give a .jsonl trace, or a .json list of messages with role and content."
        ) from None


def _print_figures(metrics: Metrics, followed: Arm, coloured: bool) -> None:
    summary = metrics.summary()
    arms, parting = summary["arms"], summary["first_divergence"]
    if parting is not None:
        text = arms["target"]["text"]
        print(f"The target alone, from whose text the one above parts at token {parting + 1:,}:")
        print(f"{tamed(text) if sys.stdout.isatty() else text}\n")
    for name, arm in arms.items():
        tpot = "–" if arm["tpot_s"] is None else f"{1e3 * arm['tpot_s']:.1f} ms"
        length = arm["mean_acceptance_length"]
        print(
            f"{name:12} {arm['tokens']:,} tokens in {metrics.arms[name].rounds + 1:,} passes, "
            f"TPOT {tpot}, TTFT {1e3 * arm['ttft_s']:.0f} ms"
            + (f", mean acceptance length {length:.2f}" if name == "speculative" and length else "")
        )
    if followed in metrics.arms:
        print(f"{'tokens':12} {legend(metrics.arms[followed].counts, coloured)}")
    if summary["speedup"]:
        text = "the same text, bit for bit" if parting is None else "two texts"
        print(f"{'speedup':12} {summary['speedup']:.2f}x; {text}")
    if full := conversation.full_sentence(metrics):
        print(full)
