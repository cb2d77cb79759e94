"""The target as a teacher: a stream of prompts answered many at a time, its final hidden states kept.

Continuous batching: single tokens of answers under way and new prompts are fed as one flat batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from app.backends.openvino.teacher import TeacherGraph

BUCKET = 256  # entries of a distribution summed at once: a draw finds its bucket first, then the entry


@dataclass(frozen=True, slots=True)
class Turn:
    """What the teacher writes until a stop id or max_tokens. temperature 0 is argmax."""

    temperature: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt to be continued by one or more turns. key: unique, seeds the draws."""

    key: int
    prompt: tuple[int, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A finished job.

    token_ids: the prompt, the turns, and what stands between them. scored [len(token_ids)]: the tokens the teacher
    drew itself. hidden: float16 [scored.sum(), D], the final hidden state that predicted each of them.
    """

    job: Job
    token_ids: tuple[int, ...]
    scored: NDArray[np.bool_]
    hidden: NDArray[np.float16]


@dataclass(slots=True)
class _Running:
    job: Job
    pending: list[int]
    coins: Iterator[float]
    length: int
    token_ids: list[int]
    scored: list[bool]
    hidden: list[NDArray[np.float16]] = field(default_factory=list)
    turn: int = 0
    turn_tokens: int = 0

    def take(
        self,
        hidden: NDArray[np.float32],
        probs: NDArray[np.float32],
        stop_ids: frozenset[int],
        closing: tuple[int, ...],
    ) -> bool:
        """Draws the next token; returns whether the job is done."""
        turn = self.job.turns[self.turn]
        token = draw(probs, next(self.coins)) if turn.temperature else int(probs.argmax())
        self.length += len(self.pending)
        self.pending = [token]
        self.hidden.append(hidden.astype(np.float16))
        self.scored.append(True)
        self.turn_tokens += 1
        stopped = token in stop_ids
        if stopped and self.turn + 1 < len(self.job.turns):
            # the template closes the turn with an id of its own, in place of the one drawn
            self.pending = list(closing)
            if token != closing[0]:
                self.hidden.pop()
                self.scored[-1] = False
            self.scored += [False] * (len(closing) - 1)
            self.turn, self.turn_tokens, stopped = self.turn + 1, 0, False
        self.token_ids += self.pending
        return stopped or self.turn_tokens == turn.max_tokens


def generate(
    graph: TeacherGraph,
    jobs: Iterable[Job],
    seed: int,
    stop_ids: frozenset[int],
    prefix: tuple[int, ...] = (),
    closing: tuple[int, ...] = (),
    prefill: int = 256,
) -> Iterator[Text]:
    """Continues every job to the end of its last turn, or to a turn cut by its max_tokens; yields them as they finish.

    prefix: ids every prompt begins with, scored once for all if they fit a KV block. closing: ids fed between turns.
    prefill: prompt tokens after which no more prompts are admitted to a pass, so that a pass does not grow without
    bound. The draws of a job depend on (seed, key) alone.
    """
    from app.backends.openvino.teacher import BLOCK

    waiting = iter(jobs)
    running: dict[int, _Running] = {}
    free = list(range(graph.slots))
    shared = len(prefix) if 0 < len(prefix) <= BLOCK else 0
    if shared:
        graph.score([(0, 0, list(prefix))], [1.0])
        block = graph.first_block(0)
    exhausted = False
    while True:
        admitted = 0
        while free and not exhausted and admitted < prefill:
            job = next(waiting, None)
            if job is None:
                exhausted = True
                break
            drawn = sum(turn.max_tokens for turn in job.turns)
            longest = len(job.prompt) + drawn + len(closing) * (len(job.turns) - 1)
            assert longest <= graph.n_positions, "the job does not fit the cache"
            assert job.prompt[: len(prefix)] == prefix, "the prompt does not begin with the prefix"
            slot = free.pop()
            if shared:
                graph.set_first_block(slot, block)
            coins = np.random.Generator(np.random.Philox(key=[seed, job.key])).random(drawn)
            prompt = list(job.prompt)
            running[slot] = _Running(job, prompt[shared:], iter(coins.tolist()), shared, prompt, [False] * len(prompt))
            admitted += len(prompt) - shared
        if not running:
            return
        order = list(running.items())
        fed = [(slot, r.length, r.pending) for slot, r in order]
        hidden, probs = graph.score(fed, [r.job.turns[r.turn].temperature for _, r in order])
        for row, (slot, r) in enumerate(order):
            if r.take(hidden[row], probs[row], stop_ids, closing):
                del running[slot]
                free.append(slot)
                yield Text(r.job, tuple(r.token_ids), np.array(r.scored), np.stack(r.hidden))


def draw(probs: NDArray[np.float32], coin: float) -> int:
    """The entry of `probs` [V] at the cumulated share `coin`, 0 <= coin < 1."""
    edges = np.cumsum(np.add.reduceat(probs, np.arange(0, len(probs), BUCKET)), dtype=np.float64)
    point = coin * edges[-1]
    bucket = min(int(np.searchsorted(edges, point, side="right")), len(edges) - 1)
    inside = np.cumsum(probs[bucket * BUCKET : (bucket + 1) * BUCKET], dtype=np.float64)
    rest = min(point - (edges[bucket - 1] if bucket else 0.0), inside[-1] * (1 - 1e-9))
    return bucket * BUCKET + int(np.searchsorted(inside, rest, side="right"))
