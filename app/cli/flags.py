"""Flags that several commands share, and what they become: a pair, a session, a request's sampling."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import numbers
from app.errors import PairError, RequestError
from app.neuron.catalogue import LIBRARIES
from app.pairs.options import LIMITS
from app.record.limits import K, parse_k
from app.record.trace import Request, Sampling

if TYPE_CHECKING:
    from app.engine.pair import Promised
    from app.engine.session import Session
    from app.hosting.process import Home, ProcessEngine
    from app.pairs.options import PairOptions

"""Exit code for what cannot work."""


def pair_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pair", type=Path, metavar="FILE", help="a pair file (.toml); flags beside it have precedence"
    )
    parser.add_argument(
        "--backend",
        help="engine: openvino (default), torch, neuron, llamacpp, or auto: the faster of openvino and llamacpp here",
    )
    parser.add_argument(
        "--target",
        type=Path,
        metavar="PATH",
        help="a .gguf file, a model directory, or of the Hub owner/name[:file.gguf] or a link",
    )
    parser.add_argument("--draft", type=Path, metavar="PATH", help="its draft model")
    parser.add_argument(
        "--dtype", help="precision: int8 (openvino's default), bf16 (neuron's, and a GPU's), f16, f32 or int4 (torch)"
    )
    parser.add_argument(
        "--device", help="torch: cuda, cuda:1, mps or cpu (default: the fastest, several GPUs if needed)"
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a target on the Hub")
    parser.add_argument("--draft-revision", metavar="REV", help="the same for the draft")
    parser.add_argument(
        "--threads", type=numbers.whole(*LIMITS["threads"]), help="processor threads (default: all cores)"
    )
    parser.add_argument(
        "--n-positions",
        type=numbers.whole(*LIMITS["n_positions"]),
        metavar="N",
        help="longest context (default: the model's)",
    )
    parser.add_argument(
        "--tp-degree",
        "--tp",
        type=numbers.whole(*LIMITS["tp_degree"]),
        metavar="N",
        help="neuron: cores both models share (default: planned); torch: processes that each hold a part, one a GPU",
    )
    parser.add_argument("--windows", type=windows, metavar="K,K,...", help="neuron: the windows to compile")
    parser.add_argument(
        "--neuron-library",
        choices=LIBRARIES,
        help="neuron: the library that runs the pair (default: the installed one)",
    )
    parser.add_argument(
        "--neuron-artifacts", dest="artifacts", type=Path, metavar="DIR", help="neuron: keep compiled programs there"
    )


def sampling_flags(parser: argparse.ArgumentParser) -> None:
    """The warp and the seed."""
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token, always")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the likeliest tokens up to this sum; 1: all")
    parser.add_argument("--top-k", type=int, default=0, help="only so many of the likeliest tokens; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same text again")


def sampling(options: argparse.Namespace) -> Sampling:
    """What `sampling_flags` said."""
    return Sampling(temperature=options.temperature, top_p=options.top_p, top_k=options.top_k, seed=options.seed)


def windows(text: str) -> tuple[int, ...]:
    """A list of windows."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of windows such as 2,3,5") from None


def window(text: str) -> K:
    """One window, or auto."""
    try:
        return parse_k(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no window such as 4, nor auto") from None


def pair_options(options: argparse.Namespace) -> PairOptions:
    """What `pair_flags` said, over what the pair file says. Raises PairError."""
    from app.pairs import pair_files
    from app.pairs.options import PairOptions

    named = {field.name: getattr(options, field.name) for field in dataclasses.fields(PairOptions)}
    given = {name: value for name, value in named.items() if value is not None}
    written = PairOptions() if options.pair is None else pair_files.read(options.pair)
    return dataclasses.replace(written, **given)


def promised(options: argparse.Namespace) -> Promised:
    """What is known of the pair that the flags name before it is loaded. Raises PairError."""
    from app.pairs import registry

    return registry.promised(pair_options(options))


def session(
    options: argparse.Namespace,
    requests: Iterable[Request] = (),
    upstream: bool = False,
    folder: Path | None = None,
) -> Session:
    """The session of the pair that the flags name, with the acceptor of `--acceptor` where that is one of the user's
    own.

    requests: what will be asked of it, refused before minutes of loading where
    that is known; upstream: of the engine's own loop. folder: holds the pairs it may switch to. Raises PlaygroundError.
    """
    from app.engine.acceptance import find
    from app.engine.requests import validate_unloaded
    from app.hosting.recipe import pair_recipe
    from app.pairs import registry

    custom = is_custom(options.acceptor)
    own = pair_options(options)
    for request in requests:
        validate_unloaded(registry.promised(own), request, upstream)
        if not custom:
            find(request.acceptor)
    return pair_recipe(own, options.acceptor if custom else None, listed(own, folder)).make()


def listed(own: PairOptions, folder: Path | None, catalogue: bool = False) -> dict[str, PairOptions]:
    """The pairs of a folder by name, those of the catalogue where it is offered, and the one that the flags name.

    Raises PairError."""
    from app.backends.checkpoints.offered import Offered
    from app.pairs import pair_files

    if folder is None and not catalogue:
        return {}
    others = {} if folder is None else pair_files.listed(folder)
    if catalogue:
        others = {**Offered(own).listed(), **others}
    name = next((name for name, other in others.items() if other == own), None)
    return {name or "as started": own, **others}


def engine(options: argparse.Namespace) -> ProcessEngine:
    """The engine of the page, in a process of its own, for the pair that the flags name and those of `--pairs`.

    Raises PlaygroundError.
    """
    from app.hosting.process import ProcessEngine
    from app.hosting.recipe import pair_recipe
    from app.pairs import memory

    own = pair_options(options)
    others = listed(own, options.pairs, options.catalogue)
    free = memory.free_memory()
    limit = None if free is None else free * 9 // 10
    if options.memory_limit is not None:
        limit = int(options.memory_limit * 1e9)
    return ProcessEngine(
        pair_recipe(own, options.acceptor if is_custom(options.acceptor) else None, others),
        python=engine_python(own.backend),
        homes={name: home(pair) for name, pair in others.items()},
        round_seconds=options.round_seconds,
        memory=limit,
    )


def home(pair: PairOptions) -> Home:
    """Where an engine of the pair lives."""
    from app.hosting.process import Home
    from app.pairs.registry import ListedPair

    try:
        alone = bool(ListedPair(pair).stays)
    except PairError:  # whoever chooses it is told
        alone = False
    return Home(engine_python(pair.backend), alone)


def follow(options: argparse.Namespace) -> None:
    """Where torchrun started this process as another rank than 0: load its part, and follow rank 0 to its end."""
    if (options.tp_degree or 1) > 1 and os.environ.get("RANK", "0") != "0":
        from app.pairs import registry

        registry.load(pair_options(options))


def engine_python(backend: str) -> str:
    """The interpreter of the environment a backend's packages are in: PLAYGROUND_BACKEND_PYTHON (its name in capitals),
    this one where it is not set."""
    return os.environ.get(f"PLAYGROUND_{backend.upper()}_PYTHON") or sys.executable


def is_custom(acceptor: str | None) -> bool:
    """Whether `--acceptor` names one of the user's own, as module:Name."""
    return acceptor is not None and ":" in acceptor


def write_text(path: Path, text: str, what: str) -> None:
    """Write a file that was asked for. Raises RequestError."""
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                if path.is_file():
                    path.unlink()  # a part of it is worse than none
                raise
    except OSError as error:
        raise RequestError(f"{what} cannot be written to {path} ({error.strerror}); choose another file.") from None
