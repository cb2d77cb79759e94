"""`serve --ray`: the flags of a pool of engines, and the pool they become."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import flags
from app.errors import RequestError

if TYPE_CHECKING:
    from app.hosting.pool import Pool, Size
    from app.pairs.options import PairOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a pool of engines by Ray: of the cluster there (auto: this machine's), else of one for this page",
    )
    parser.add_argument(
        "--replicas", type=size, metavar="N or N-M", help="ray: engines, each a run at a time; up to M while runs wait"
    )


def size(text: str) -> Size:
    """How many engines."""
    from app.hosting.pool import Size

    try:
        return Size.of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of engines such as 2, nor a range such as 1-4"
        ) from None


def check(options: argparse.Namespace) -> None:
    """Raises RequestError for flags that do not go together."""
    if options.replicas is not None and options.ray is None:
        raise RequestError("--replicas is for a pool of engines; give --ray too.")
    if options.catalogue and options.ray is not None:
        raise RequestError("--catalogue fetches to this machine, and a pool may run on others; leave one of both out.")


def pool(options: argparse.Namespace) -> Pool:
    """The pool for the pair that the flags name and those of `--pairs`. Raises PlaygroundError."""
    from app.hosting.pool import Pool, Size
    from app.hosting.recipe import pair_recipe

    own = _anywhere(flags.pair_options(options))
    listed = {name: _anywhere(pair) for name, pair in flags.listed(own, options.pairs).items()}
    settings = {"python": flags.engine_python(own.backend), "round_seconds": options.round_seconds}
    if options.memory_limit is not None:
        settings["memory"] = int(options.memory_limit * 1e9)
    return Pool(
        pair_recipe(own, options.acceptor if flags.is_custom(options.acceptor) else None, listed),
        options.ray,
        options.replicas or Size(),
        homes={name: flags.home(pair) for name, pair in listed.items()},
        settings=settings,
        gpus=own.backend == "torch" and (own.device or "cuda").startswith("cuda"),
    )


def _anywhere(pair: PairOptions) -> PairOptions:
    """The pair as an engine that starts in another folder finds it."""
    target, draft, artifacts = map(_absolute, (pair.target, pair.draft, pair.artifacts))
    return dataclasses.replace(pair, target=target, draft=draft, artifacts=artifacts)


def _absolute(path: Path | None) -> Path | None:
    return path if path is None or not path.exists() else path.absolute()  # a Hub id has no file
