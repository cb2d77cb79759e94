"""The first half of `distill all`: the target writes, in as much time as it is given."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import torch

from app.distill import helpers, jobs
from app.distill.jobs import CATEGORIES, NO_PROSE, Jobs, Sizes
from app.distill.plan import Log, Plan
from app.distill.target import Target
from app.distill.texts import Batch, Dialogues, Numbers, Texts
from app.distill.writer import COLD, Writer
from app.errors import RequestError

KEYS = 4000  # openers made at once
PASSAGES = 3000  # answers that later instructions ask about
SCORES = 4  # rows of logits in float32 that drawing a token takes at once, for every dialogue


@dataclass(frozen=True, slots=True)
class Written:
    """clean: what may be learnt from. held_out: the target's answers to the held-out prompts."""

    dialogues: Dialogues
    clean: Clean
    held_out: list[Batch]


@dataclass(frozen=True, slots=True)
class Clean:
    """Dialogues without a held-out prompt, as far as they have been looked at: training begins with the first ones."""

    parts: Sequence[Numbers]
    checks: Sequence[Future[list[bool]]]

    def __call__(self) -> Numbers:
        """Their numbers, of a quarter of all at least."""
        enough = -(-len(self.parts) // 4)
        chosen = [
            part[np.array(check.result(), bool)]
            for place, (part, check) in enumerate(zip(self.parts, self.checks, strict=True))
            if place < enough or check.done()
        ]
        return np.concatenate(chosen)


class Desk:
    """The jobs: made ahead of the writer by the helpers, in order."""

    def __init__(self, writer: Writer, pool: Executor, plan: Plan, width: int, first: int, count: int) -> None:
        self._writer, self._pool, self._plan, self._width = writer, pool, plan, width
        self._keys = iter(range(first, first + count, KEYS))
        self._pending: list[Future[Jobs]] = []
        self.categories: list[int] = []

    def add(self, more: Jobs) -> None:
        self.categories += more.categories.tolist()
        self._writer.add(more)

    def supply(self, passages: Sequence[str]) -> None:
        """Hands over what is ready, what is needed at once, and orders what will be."""
        plan = self._plan
        ahead = 2 * plan.rows + plan.rows * plan.steps // 50
        missing = ahead - self._writer.left - KEYS * len(self._pending)
        for _, begin in zip(range(-(-missing // KEYS)), self._keys, strict=False):
            keys = range(begin, begin + KEYS)
            self._pending.append(
                self._pool.submit(helpers.begun, keys, plan.seed, passages, plan.sizes, self._width)
            )  # fmt: skip
        while self._pending and (self._pending[0].done() or self._writer.left < plan.rows):
            self.add(self._pending.pop(0).result())

    def close(self) -> None:
        for future in self._pending:
            future.cancel()


def write(
    target: Target, prompts: Sequence[tuple[str, str]], plan: Plan, device: torch.device, pool: Executor, log: Log
) -> Written:
    """Lets the target write until its share of the time or the room for it is used up."""
    sizes = plan.sizes
    width = jobs.width(sizes, [[*target.tokenizer.encode(prompt), *target.closing] for _, prompt in prompts])
    asked = jobs.held_out(target, prompts, sizes, width)
    count = int(plan.tokens / 100) + 2 * KEYS + 2 * plan.rows
    longest = len(target.opening) + width + sizes.instruction + len(target.closing) + sizes.answer
    writer = Writer(
        target.weights,
        opening=target.opening,
        closing=target.closing,
        stop_ids=target.tokenizer.stop_ids,
        rows=plan.rows,
        n_positions=-(-longest // 32) * 32,
        steps=plan.steps,
        width=width,
        capacity=count + KEYS + len(asked),
        seed=plan.seed,
        device=device,
        flash=plan.flash,
    )
    tokens = plan.tokens
    if device.type == "cuda":  # the dialogues under way hold most of a card's memory, as much as 50 of 80 GB
        free = torch.cuda.mem_get_info(device)[0] - SCORES * 4 * plan.rows * target.config.vocab_size
        tokens = fitting(tokens, free // (2 * target.config.hidden_size), plan)
    texts = Texts(target.opening, writer.opening_states, tokens, plan.rows, device, plan.texts)
    if texts.size:
        log.note(found=texts.size)
    desk = Desk(writer, pool, plan, width, texts.size, count)
    desk.add(asked)
    passages, before, begun = list[str](), texts.size, log.minutes
    while texts.room(plan.steps * plan.rows) and (log.minutes < plan.minutes * plan.writing or not texts.size):
        desk.supply(passages if len(passages) > PASSAGES // 20 else ())
        texts.add(writer.write())
        if len(passages) < PASSAGES:  # answers are the passages of instructions that come later
            passages = prose(texts.dialogues(), desk.categories, target, sizes)
    desk.close()
    rate = (texts.size - before) / max(60 * (log.minutes - begun), 1e-9)
    log.note(read=texts.size, rate=round(rate), jobs_left=writer.left, passages=len(passages))
    del writer, desk
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return _looked_at(texts.dialogues(), len(asked), pool, plan.seed, device)


def fitting(tokens: int, room: int, plan: Plan) -> int:
    """At most `tokens`, in whole chunks, where there is room for the states of `room`. Raises RequestError where there
    is none for a chunk."""
    chunk = plan.rows * plan.steps
    if room < chunk:
        raise RequestError(
            f"{plan.rows} dialogues at once leave no memory for what they write; choose fewer --rows, or --steps."
        )
    return min(tokens, room // chunk * chunk)


def _looked_at(dialogues: Dialogues, asked: int, pool: Executor, seed: int, device: torch.device) -> Written:
    held_out = np.flatnonzero(dialogues.jobs < asked)
    _, firsts = np.unique(dialogues.jobs[held_out], return_index=True)
    candidates = np.flatnonzero((dialogues.jobs >= asked) & (dialogues.lengths > 8))
    candidates = np.random.default_rng(seed).permutation(candidates)
    parts = np.array_split(candidates, max(1, len(candidates) // 1000))
    checks = [pool.submit(helpers.clean, [dialogues.ids(number) for number in part]) for part in parts]
    numbers = held_out[firsts]
    numbers = numbers[np.argsort(dialogues.lengths[numbers])]
    batches = [dialogues.batch(part, device) for part in np.array_split(numbers, -(-len(numbers) // 24))]
    return Written(dialogues, Clean(parts, checks), batches)


def prose(dialogues: Dialogues, categories: Sequence[int], target: Target, sizes: Sizes) -> list[str]:
    """Answers that may serve as passages: prose, ended by the target itself at T = 0, of some length."""
    passages = []
    fit = np.array([category >= 0 and CATEGORIES[category] not in NO_PROSE for category in categories])
    longest = min(sizes.passage, sizes.answer - 1)
    known = dialogues.jobs < len(fit)  # texts of an earlier run have jobs of their own
    for number in np.flatnonzero(known & fit[np.where(known, dialogues.jobs, 0)] & dialogues.finished()).tolist():
        kinds = dialogues.kinds_of(number)
        answer = np.flatnonzero(kinds >= COLD)
        if len(answer) and kinds[-1] == COLD and sizes.passage // 3 <= len(answer) <= longest:
            passages.append(target.text(dialogues.ids(number)[answer[0] + 1 :]).strip())
            if len(passages) == PASSAGES:
                break
    return passages
