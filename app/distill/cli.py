"""`distill STAGE`: make a draft for a target, from the target alone, measure it, write it for other engines."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli import numbers
from app.errors import PairError, RequestError
from app.places import ASSETS, home
from app.record.limits import MAX_SEED, MAX_TOKENS

if TYPE_CHECKING:
    from app.distill.everything import Start

STAGES = {
    "all": "from nothing to packed drafts in a given time: the target writes, the draft learns, on a "
    "GPU where there is one",
    "evaluate": "measure a packed draft on held-out prompts with the playground's engine",
    "export": "write a packed draft as a plain Hugging Face checkpoint with the full vocabulary",
}
MINUTES = 60 * 24 * 365  # at most
MEMORY = 0.4  # share of a device's memory that may hold what the target wrote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    made = {name: stages.add_parser(name, help=text) for name, text in STAGES.items()}
    for sub in made.values():
        sub.add_argument("--target", type=Path, help="a GGUF or a Hugging Face directory (default: the embedded one)")
        sub.add_argument("--work", type=Path, default=home() / "work" / "distill", help="where files are kept")
        sub.add_argument("--prompts", type=Path, default=ASSETS / "prompts.json", help="the held-out prompts")
        sub.add_argument(
            "--seed", type=numbers.whole(0, MAX_SEED), default=0, help="the same seed gives the same again"
        )
        sub.add_argument("--threads", type=numbers.whole(1, 1024), help="processor threads (default: all)")
    whole = made["all"]
    whole.add_argument("--minutes", type=numbers.real(0, most=MINUTES), required=True, help="for all of it")
    whole.add_argument("--out", type=Path, help="where the drafts go, a folder each (default: drafts in --work)")
    whole.add_argument("--device", help="cuda, cpu, ... (default: cuda where there is one)")
    whole.add_argument("--start", type=Path, help="begin from an earlier draft: a packed one, or a folder of --out")
    whole.add_argument(
        "--keep", action="store_true", help="keep what the target writes in --work; a next run begins with it"
    )
    whole.add_argument(
        "--writing",
        type=numbers.real(0, most=1, below=True),
        default=0.3,
        help="share of the minutes in which the target writes",
    )
    whole.add_argument(
        "--plain",
        type=numbers.real(most=1, below=True),
        default=0.0,
        help="share of the training for a draft that reads tokens only",
    )
    whole.add_argument(
        "--single",
        type=numbers.real(most=1, below=True),
        default=0.0,
        help="share of the training for a draft of one layer",
    )
    whole.add_argument(
        "--ablation",
        type=numbers.whole(0),
        default=0,
        metavar="TOKENS",
        help="afterwards, beyond the minutes: train drafts that go without one ingredient each on so many drawn "
        "tokens, and note how they fare",
    )
    whole.add_argument("--layers", default="0,1", help="target layers the draft starts from")
    whole.add_argument(
        "--kept", type=numbers.whole(2), default=8192, help="ids the output layer covers; --start has its own"
    )
    whole.add_argument(
        "--rows", type=numbers.whole(1), help="dialogues under way at once (default: 4096 on CUDA, else 96)"
    )
    whole.add_argument("--steps", type=numbers.whole(1), help="tokens of each between two looks at the clock")
    whole.add_argument(
        "--most",
        type=numbers.real(least=1, most=1e15),
        help="tokens the target reads and writes at most (default: what memory holds)",
    )
    whole.add_argument("--instruction-tokens", type=numbers.whole(1), default=64, help="of an instruction, at most")
    whole.add_argument(
        "--passage-tokens", type=numbers.whole(1), default=170, help="of a text to be asked about, at most"
    )
    whole.add_argument("--answer-tokens", type=numbers.whole(1), default=192, help="of an answer, at most")
    whole.add_argument("--no-flash", action="store_true", help="on CUDA: read the whole cache, by ordinary attention")
    whole.add_argument(
        "--batch", type=numbers.whole(1), help="padded tokens a training step (default: 32768 on CUDA, else 1536)"
    )
    whole.add_argument("--rate", type=numbers.real(0, most=1), default=1.5e-3, help="learning rate, the highest")
    whole.add_argument("--f32", action="store_true", help="train without bf16: for processors that have none")
    for name in ("evaluate", "export"):
        made[name].add_argument(
            "--draft",
            type=Path,
            default=ASSETS / ("draft" if name == "evaluate" else "plain-draft"),
            help="a packed draft",
        )
    made["export"].add_argument("--out", type=Path, required=True, help="where the checkpoint is written")
    evaluate = made["evaluate"]
    evaluate.add_argument("--k", default="5", help="windows, separated by commas; auto is one")
    evaluate.add_argument("--temperature", default="0,1", help="temperatures, separated by commas")
    evaluate.add_argument("--acceptor", default="rejection", help="by name")
    evaluate.add_argument(
        "--max-tokens", type=numbers.whole(1, MAX_TOKENS), default=96, help="where an answer ends at the latest"
    )
    evaluate.add_argument("--dtype", default="int8", help="precision of the target: int8, bf16, f16 or f32")
    evaluate.add_argument("--timed", action="store_true", help="run the target alone too, and compare the times")
    evaluate.add_argument("--json", action="store_true", help="one JSON list")


def main(args: argparse.Namespace) -> int:
    {"all": _all, "evaluate": _evaluate, "export": _export}[args.stage](args)
    return 0


def _target(args: argparse.Namespace) -> Any:
    from app.distill.target import Target
    from app.pairs.embedded import embedded_target

    return Target(embedded_target() if args.target is None else args.target, args.work / "cache")


def _held_out_text(args: argparse.Namespace) -> list[tuple[str, str]]:
    from app.distill.prompts import read_prompts

    return read_prompts(args.prompts)


def _all(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("torch") is None:
        raise PairError(
            "Training needs torch, which is not installed; run pip install -r app/distill/requirements.txt."
        )
    import torch

    from app.distill import shards
    from app.distill.everything import everything
    from app.distill.jobs import Sizes
    from app.distill.plan import Plan
    from app.distill.student import Shape, Student
    from app.distill.train import Recipe
    from app.pairs.embedded import EMBEDDED_NAME

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        layers = tuple(int(layer) for layer in args.layers.split(","))
    except ValueError:
        raise RequestError(f"--layers is {args.layers!r}; write numbers separated by commas, such as 0,1.") from None
    target, prompts = _target(args), _held_out_text(args)
    if bad := [layer for layer in layers if not 0 <= layer < target.config.num_layers]:
        raise RequestError(f"{target.name} has no layer {bad[0]}; choose from 0 to {target.config.num_layers - 1}.")
    try:
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"There is no device {args.device!r} here ({str(error).splitlines()[0]}).") from None
    fast = device.type == "cuda"
    if fast:
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans for a second at every new shape of a batch
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows, steps = args.rows or (4096 if fast else 96), args.steps or (256 if fast else 64)
    room = MEMORY * memory / (2 * target.config.hidden_size)
    if rows * steps > room:
        raise RequestError(
            f"--rows {rows} times --steps {steps} tokens are more than memory holds here; choose at most "
            f"{int(room):,} together."
        )
    if args.plain + args.single >= 1:
        raise RequestError("--plain and --single leave no training for the draft itself; their sum must be below 1.")
    most = int(min(room, args.most or room)) // (rows * steps) * rows * steps
    plan = Plan(
        minutes=args.minutes,
        out=args.out or args.work / "drafts",
        rows=rows,
        steps=steps,
        tokens=max(most, rows * steps),
        sizes=Sizes(args.instruction_tokens, args.passage_tokens, args.answer_tokens),
        writing=args.writing,
        plain=args.plain,
        single=args.single,
        layers=layers,
        kept=min(args.kept, target.config.vocab_size),
        processes=(os.cpu_count() or 1) - 2,
        seed=args.seed,
        texts=args.work / "texts" if args.keep else None,
        flash=not args.no_flash,
        ablation=args.ablation,
    )
    if (longest := plan.sizes.longest(target)) > target.config.n_positions:
        raise RequestError(
            f"These lengths need a context of {longest} tokens and {target.name} holds {target.config.n_positions}; "
            "make --answer-tokens or --passage-tokens smaller."
        )
    batch = args.batch or (32768 if fast else 1536)
    recipe = Recipe(args.minutes, batch, args.rate, bf16=not args.f32, compiled=fast, seed=args.seed)
    if plan.texts is not None:
        shards.claim(plan.texts, target.mark)
    start = None
    if args.start is not None:
        embedding = torch.empty(0, target.config.hidden_size)
        names = Student(Shape.of(target.weights, len(layers)), embedding, [0], conditioned=True).state_dict()
        start = _earlier(args.start, names)
        if any(name.startswith("model.layers.") and name not in start[1] for name in names):
            raise RequestError(f"The draft in {args.start} has fewer layers than --layers; give as many as it has.")
    name = EMBEDDED_NAME if args.target is None else target.name
    everything(target, prompts, plan, recipe, start, device, name)


def _earlier(folder: Path, names: Iterable[str]) -> Start:
    """(Kept ids, tensors by name) of a draft, as far as it has those names: before they were rounded, or packed."""
    import numpy as np
    import torch

    from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint

    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True)["student"]
        return np.load(folder / "kept_ids.npy"), {name: value.float() for name, value in state.items()}
    packed = SafetensorsCheckpoint(folder)
    return packed.raw("kept_ids"), {name: torch.from_numpy(packed.tensor(name)) for name in names if name in packed}


def _evaluate(args: argparse.Namespace) -> None:
    from app.distill.evaluate import evaluate, table
    from app.engine.session import Session
    from app.pairs import registry as pairs
    from app.pairs.options import PairOptions
    from app.record.limits import parse_k

    try:
        ks = [parse_k(k) for k in args.k.split(",")]
        temperatures = [float(t) for t in args.temperature.split(",")]
    except ValueError:
        raise RequestError(
            "--k and --temperature take numbers separated by commas, such as 3,5,8; a k may be auto."
        ) from None
    prompts = _held_out_text(args)
    options = PairOptions(target=args.target, draft=args.draft, dtype=args.dtype, threads=args.threads)
    session = Session(pairs.load(options))
    results = evaluate(session, prompts, ks, temperatures, args.max_tokens, args.seed, args.timed, args.acceptor)
    print(json.dumps(results) if args.json else table(results))


def _export(args: argparse.Namespace) -> None:
    from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint
    from app.distill.pack import export

    export(SafetensorsCheckpoint(args.draft), _target(args).weights, args.out)


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(main(_parser.parse_args()))
