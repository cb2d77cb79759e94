"""`distill STAGE`: make a draft for a target, from the target alone.

dialogues and train may be stopped and started at any time. The usual order is: dialogues, train, pack, evaluate.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from app.errors import PairError, RequestError
from app.pairs.embedded import embedded_target
from app.pairs.options import PairOptions
from app.places import ASSETS, home

STAGES = {
    "dialogues": "let the target write instructions and answer them, and answer the held-out prompts",
    "train": "train the draft on the target's distributions",
    "pack": "write the trained draft as the playground's files",
    "evaluate": "measure a packed draft on held-out prompts with the playground's engine",
    "export": "write a packed draft as a plain Hugging Face checkpoint with the full vocabulary",
}
EMBEDDINGS = "model.embed_tokens.weight"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    made = {name: stages.add_parser(name, help=text) for name, text in STAGES.items()}
    for sub in made.values():
        sub.add_argument("--target", type=Path, help="a GGUF or a Hugging Face directory (default: the embedded one)")
        sub.add_argument(
            "--work", type=Path, default=home() / "work" / "distill", help="where all stages keep their files"
        )
        sub.add_argument("--prompts", type=Path, default=ASSETS / "prompts.json", help="the held-out prompts")
        sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same again")
        sub.add_argument("--threads", type=int, help="processor threads (default: all)")
    dialogues = made["dialogues"]
    dialogues.add_argument("--count", type=int, default=10_000, help="how many are there to be in the end")
    dialogues.add_argument("--worker", default="0/1", metavar="I/N", help="this process makes every Nth, from the Ith")
    dialogues.add_argument("--slots", type=int, default=128, help="sequences under way at once")
    dialogues.add_argument("--instruction-tokens", type=int, default=64, help="of an instruction, at most")
    dialogues.add_argument("--passage-tokens", type=int, default=170, help="of a text to be asked about, at most")
    dialogues.add_argument("--answer-tokens", type=int, default=192, help="of an answer, at most")
    train = made["train"]
    train.add_argument("--layers", default="0,1", help="target layers the draft starts from")
    train.add_argument(
        "--kept", type=int, default=4096, help="ids the output layer covers; with --start, at least its own"
    )
    train.add_argument("--tokens", type=float, default=2e6, help="teacher's tokens to be seen")
    train.add_argument("--batch", type=int, default=1536, help="padded tokens a step")
    train.add_argument("--rate", type=float, default=1.5e-3, help="learning rate, the highest")
    train.add_argument("--decay", type=float, default=0.6, help="last share of the run in which the rate falls")
    train.add_argument("--late", type=float, default=0.2, help="last share of the run with total variation in the loss")
    train.add_argument("--minutes", type=float, help="train so long by the clock, instead of --tokens")
    train.add_argument("--bf16", action="store_true", help="near twice as fast where the processor has bf16 arithmetic")
    train.add_argument("--start", type=Path, help="begin from an earlier draft: a run's folder, or a packed draft's")
    for name in ("train", "pack"):
        made[name].add_argument("--run", default="run", help="name of the training run")
    made["pack"].add_argument("--out", type=Path, default=ASSETS / "draft", help="where the draft is written")
    for name in ("evaluate", "export"):
        made[name].add_argument("--draft", type=Path, default=ASSETS / "draft", help="a packed draft")
    made["export"].add_argument("--out", type=Path, required=True, help="where the checkpoint is written")
    evaluate = made["evaluate"]
    evaluate.add_argument("--k", default="5", help="windows, separated by commas; auto is one")
    evaluate.add_argument("--temperature", default="0,1", help="temperatures, separated by commas")
    evaluate.add_argument("--acceptor", default="rejection", help="by name")
    evaluate.add_argument("--max-tokens", type=int, default=96, help="where an answer ends at the latest")
    evaluate.add_argument("--dtype", default="int8", help="precision of the target: int8, bf16, f16 or f32")
    evaluate.add_argument("--timed", action="store_true", help="run the target alone too, and compare the times")
    evaluate.add_argument("--json", action="store_true", help="one JSON list")


def main(args: argparse.Namespace) -> int:
    if args.stage == "train" and importlib.util.find_spec("torch") is None:
        raise PairError(
            "Training needs torch, which is not installed; run pip install -r app/distill/requirements.txt."
        )
    stage = {
        "dialogues": _dialogues,
        "train": _train,
        "pack": _pack,
        "evaluate": _evaluate,
        "export": _export,
    }[args.stage]
    stage(args)
    return 0


def _target(args: argparse.Namespace) -> Any:
    from app.distill.target import Target

    path = embedded_target() if args.target is None else args.target
    return Target(path, args.work / "cache")


def _held_out_text(args: argparse.Namespace) -> list[tuple[str, str]]:
    from app.distill.prompts import read_prompts

    return read_prompts(args.prompts)


def _folders(work: Path, stage: str) -> list[Path]:
    return sorted(path for path in (work / stage).glob("*") if path.is_dir())


def _dialogues(args: argparse.Namespace) -> None:
    from app.backends.openvino.teacher import BLOCK, TeacherGraph
    from app.distill import corpus, data

    try:
        worker, workers = map(int, args.worker.split("/"))
    except ValueError:
        raise RequestError(f"--worker is {args.worker!r}; write it as 0/2: the first of two.") from None
    target, prompts = _target(args), _held_out_text(args)
    sizes = data.Sizes(args.instruction_tokens, args.passage_tokens, args.answer_tokens)
    user = 64 + sizes.passage + sizes.instruction  # 64: the opener's own tokens
    user = max(user, *(len(target.tokenizer.encode(prompt)) for _, prompt in prompts))
    longest = len(target.opening) + user + len(target.closing) + sizes.answer
    n_positions = -(-longest // BLOCK) * BLOCK
    if n_positions > target.config.n_positions:
        raise RequestError(
            f"These lengths need a context of {n_positions} tokens and {target.name} holds "
            f"{target.config.n_positions}; make --answer-tokens or --passage-tokens smaller."
        )
    graph = TeacherGraph(target.weights, args.slots, n_positions, args.threads)
    if worker == 0:
        data.held_out_answers(graph, target, args.work / "held_out" / "0", prompts, args.seed, sizes)
    folder = args.work / "dialogues" / str(worker)
    texts = data.passages(corpus.read([folder]), target, sizes.passage)
    data.dialogues(graph, target, folder, range(worker, args.count, workers), texts, args.seed, sizes)


def _train(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from app.distill import corpus, train
    from app.distill.overlap import Overlap
    from app.distill.student import Student, extended, grown

    if args.threads:
        torch.set_num_threads(args.threads)
    target, folder = _target(args), args.work / args.run
    held_out = Overlap(prompt for _, prompt in _held_out_text(args))
    examples = corpus.read(_folders(args.work, "dialogues"), lambda ids: held_out.touches(target.text(ids)))
    if not examples:
        raise RequestError(f"There are no shards in {args.work}; run the stage dialogues first.")
    c, layers = target.config, [int(layer) for layer in args.layers.split(",")]
    kept = folder / "kept_ids.npy"
    output = torch.from_numpy(target.output_layer)
    embedding = torch.from_numpy(target.weights.tensor(EMBEDDINGS))
    before, begun = np.empty(0, np.int32), dict[str, Any]()
    if args.start:
        before, begun = _earlier(args.start, Student(_shape(target, len(layers)), embedding, [0]).state_dict())
    if kept.exists():
        ids = np.load(kept)
    elif len(before) >= args.kept:
        ids = before
    else:
        ids = corpus.most_frequent(examples, min(args.kept, c.vocab_size), target.output_layer, [*c.stop_ids, *before])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(kept, ids)
    targets = sum(len(e.hidden) for e in examples)
    inside = sum(int(np.isin(e.drawn, ids).sum()) for e in examples)
    facts = {
        "sequences": len(examples),
        "tokens": targets,
        "kept_share": inside / targets,
        "layers": layers,
        "kept_ids": len(ids),
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    print(json.dumps(facts), file=sys.stderr)
    torch.manual_seed(args.seed)
    student = Student(_shape(target, len(layers)), embedding, ids)
    if (folder / "state.pt").exists():
        pass  # train goes on from it
    elif args.start:
        old = torch.from_numpy(before.astype(np.int64))
        begun["lm_head.weight"] = extended(begun["lm_head.weight"], output, old, student.kept_ids)
        student.copy_layers(target.weights.tensor, layers)
        try:
            student.load_state_dict(grown(begun, student.state_dict()))
        except RuntimeError:
            raise RequestError(
                f"The draft in {args.start} has more layers than --layers; give as many or more."
            ) from None
    else:
        student.copy_layers(target.weights.tensor, layers)
        train.initialise(student, examples, output, args.batch)
    answered = corpus.read(_folders(args.work, "held_out"))
    data = train.held_out(answered, output, student.kept_ids) if answered else None
    tokens = int(args.tokens) if args.minutes is None else sys.maxsize
    recipe = train.Recipe(
        tokens, args.batch, args.rate, args.decay, late=args.late, seed=args.seed, minutes=args.minutes, bf16=args.bf16
    )
    train.train(student, examples, output, recipe, folder, data)


def _earlier(folder: Path, names: Iterable[str]) -> tuple[Any, dict[str, Any]]:
    """(kept ids, tensors by name) of a run, or of a packed draft as far as it has those names."""
    import numpy as np
    import torch

    from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint

    if (folder / "state.pt").exists():
        return np.load(folder / "kept_ids.npy"), torch.load(folder / "state.pt", weights_only=True)["student"]
    packed = SafetensorsCheckpoint(folder)
    return packed.raw("kept_ids"), {name: torch.from_numpy(packed.tensor(name)) for name in names if name in packed}


def _pack(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from app.distill import corpus, train
    from app.distill.pack import away, pack
    from app.distill.student import Student

    target, folder = _target(args), args.work / args.run
    if not (folder / "state.pt").exists():
        raise RequestError(f"There is no trained draft in {folder}; run the stage train first.")
    ids = np.load(folder / "kept_ids.npy")
    layers = json.loads((folder / "facts.json").read_text(encoding="utf-8"))["layers"]
    student = Student(_shape(target, len(layers)), torch.from_numpy(target.weights.tensor(EMBEDDINGS)), ids)
    student.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["student"])
    examples = corpus.read(_folders(args.work, "dialogues")[:1])
    examples = examples[:: max(1, len(examples) // 200)]
    hot = train.held_out(
        [e for e in examples if e.temperature], torch.from_numpy(target.output_layer), student.kept_ids
    )
    with torch.no_grad():
        states = train.rows(student, examples)[0].numpy()
        student.lm_head.weight *= train.sharpening(student, hot)
    name = "SmolLM2-135M-Instruct" if args.target is None else target.name
    arrays = {key: value.numpy() for key, value in student.state_dict().items()}
    pack(arrays, ids, away(states), target.config, name, args.out)


def _shape(target: Any, num_layers: int) -> Any:
    from app.distill.student import Shape

    c = target.config
    sizes = (c.hidden_size, c.intermediate_size, c.num_heads, c.num_kv_heads, c.head_size)
    return Shape(*sizes, c.rms_norm_eps, c.rope_theta, num_layers)


def _evaluate(args: argparse.Namespace) -> None:
    from app.distill.evaluate import evaluate, table
    from app.engine.session import Session
    from app.pairs import registry as pairs
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
