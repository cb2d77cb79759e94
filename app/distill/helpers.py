"""Work for the processor's other cores while the device writes: openers as ids, and the search for held-out prompts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.distill import jobs
from app.distill.jobs import Jobs, Sizes
from app.distill.overlap import Overlap
from app.pairs.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Bench:
    """What a helper needs at hand: where the tokenizer lies, and the prompts that must not be learnt."""

    directory: Path
    stop_ids: tuple[int, ...]
    held_out: tuple[str, ...]


_tokenizer: TextTokenizer
_overlap: Overlap


def sit_down(bench: Bench) -> None:
    """Prepares this process."""
    global _tokenizer, _overlap
    _tokenizer = TextTokenizer(bench.directory, bench.stop_ids)
    _overlap = Overlap(bench.held_out)


def begun(keys: Sequence[int], seed: int, passages: Sequence[str], sizes: Sizes, width: int) -> Jobs:
    return jobs.begun(_tokenizer, keys, seed, passages, sizes, width)


def texts(dialogues: Sequence[NDArray[np.int32]]) -> list[str]:
    """Each one's text."""
    return [b"".join(map(_tokenizer.piece, ids.tolist())).decode("utf-8", "replace") for ids in dialogues]


def clean(dialogues: Sequence[NDArray[np.int32]]) -> list[bool]:
    """Whether each holds none of the held-out prompts."""
    return [not _overlap.touches(text) for text in texts(dialogues)]


class Here(Executor):
    """No other process: what is asked for is done at once."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        future: Future[object] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def office(bench: Bench, processes: int) -> Executor:
    """Helpers, or none where there are no cores for them."""
    if processes < 2:
        sit_down(bench)
        return Here()
    # a fresh interpreter each: a copy of one that holds a GPU cannot be trusted
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, sit_down, (bench,))
