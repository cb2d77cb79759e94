"""The dialogues a `Writer` wrote, as rows of one long table, and batches of them to learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.distill import shards
from app.distill.writer import FORCED, Chunk

Numbers = NDArray[np.int64]
MULTIPLE = 32  # batches are padded to a multiple of so many tokens: few shapes


class Texts:
    """Dialogues begun with the same opening.

    Token n of row r of the writer is at place n * rows + r of the table. states float16 [capacity, D] stay on their
    device.
    """

    def __init__(
        self,
        opening: Sequence[int],
        opening_states: NDArray[np.float16],
        capacity: int,
        rows: int,
        device: torch.device,
        folder: Path | None = None,
    ) -> None:
        """folder: where chunks are kept as they come; those that are there from an earlier run are the first."""
        width = opening_states.shape[1]
        self.opening, self.rows = np.asarray(opening, np.int32), rows
        self.opening_states = torch.from_numpy(opening_states).to(device)
        # one row more, of zeros: what stands before the first token
        self.states = torch.empty((capacity + len(opening) + 1, width), dtype=torch.float16, device=device)
        self._chunks: list[Chunk] = []
        self.size, self.capacity, self._folder = 0, capacity, folder
        for path in [] if folder is None else shards.paths(folder):
            arrays = shards.read(path)
            states = torch.from_numpy(arrays.pop("states"))
            if arrays["tokens"].shape[1] == rows and self.room(len(states)):
                self._take(Chunk(**arrays, states=states))

    def add(self, chunk: Chunk) -> None:
        """Keeps a chunk; its states are copied."""
        self._take(chunk)
        if self._folder is not None:
            arrays = {name: getattr(chunk, name) for name in ("tokens", "places", "jobs", "kinds")}
            shards.append(self._folder, {**arrays, "states": chunk.states.cpu().numpy()})

    def _take(self, chunk: Chunk) -> None:
        count = len(chunk.states)
        assert self.size + count <= self.capacity, "the table is full"
        self.states[self.size : self.size + count] = chunk.states.to(self.states.device)
        self._chunks.append(Chunk(chunk.tokens, chunk.places, chunk.jobs, chunk.kinds, torch.empty(0)))
        self.size += count

    def room(self, chunk_tokens: int) -> bool:
        return self.size + chunk_tokens <= self.capacity

    def dialogues(self) -> Dialogues:
        """What there is so far."""
        tokens, places, jobs, kinds = (
            np.concatenate([getattr(chunk, name) for chunk in self._chunks])
            for name in ("tokens", "places", "jobs", "kinds")
        )
        assert (self._chunks[0].places[0] == 0).all(), "a table begins with dialogues"
        steps, rows = tokens.shape
        by_row = places.T.reshape(-1)
        row_begins = np.arange(rows) * steps
        begins = np.flatnonzero(by_row == 0)
        ends = np.append(begins[1:], rows * steps)
        ends = np.minimum(ends, row_begins[begins // steps] + steps)
        opening = len(self.opening)
        base = self.states.shape[0] - opening - 1
        self.states[base] = 0
        self.states[base + 1 :] = self.opening_states
        return Dialogues(
            self,
            tokens.T.reshape(-1),
            kinds.T.reshape(-1),
            jobs.T.reshape(-1)[begins],
            begins,
            ends - begins,
            steps,
        )


@dataclass(frozen=True, slots=True)
class Dialogues:
    """tokens, kinds [rows * steps], a row's steps one after the other; of each dialogue its job, where it begins there,
    and its tokens behind the opening [n]."""

    texts: Texts
    tokens: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    jobs: NDArray[np.int32]
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]
    steps: int

    def __len__(self) -> int:
        return len(self.begins)

    def ids(self, number: int) -> NDArray[np.int32]:
        """A dialogue's tokens behind the opening."""
        begin = self.begins[number]
        return self.tokens[begin : begin + self.lengths[number]]

    def kinds_of(self, number: int) -> NDArray[np.uint8]:
        """What followed each of a dialogue's tokens."""
        begin = self.begins[number]
        return self.kinds[begin : begin + self.lengths[number]]

    def finished(self) -> NDArray[np.bool_]:
        """Which ones were written to their end [n]."""
        finished: NDArray[np.bool_] = (self.begins + self.lengths) % self.steps != 0
        return finished

    def batch(self, numbers: Numbers, device: torch.device) -> Batch:
        """These dialogues, opening first."""
        opening, lengths = len(self.texts.opening), self.lengths[numbers]
        longest = -(-(int(lengths.max()) + opening) // MULTIPLE) * MULTIPLE
        place = np.arange(longest - opening)[None]
        real = place < lengths[:, None]
        flat = np.where(real, self.begins[numbers][:, None] + place, 0)
        base = self.texts.states.shape[0] - opening - 1
        ids = np.zeros((len(numbers), longest), np.int64)
        ids[:, :opening] = self.texts.opening
        ids[:, opening:] = np.where(real, self.tokens[flat], 0)
        kinds = np.zeros((len(numbers), longest), np.uint8)
        kinds[:, opening:] = np.where(real, self.kinds[flat], FORCED)
        row, step = flat // self.steps, flat % self.steps
        rows = np.full((len(numbers), longest + 1), base, np.int64)
        rows[:, 1 : opening + 1] = base + 1 + np.arange(opening)
        rows[:, opening + 1 :] = np.where(real, step * self.texts.rows + row, base)
        where = torch.from_numpy(rows).to(self.texts.states.device)
        states = self.texts.states[where].to(device)
        return Batch(torch.from_numpy(ids).to(device), kinds, states)

    def batches(self, numbers: Numbers, tokens: int, seed: int, epoch: int, device: torch.device) -> Iterator[Batch]:
        """One epoch in an order fixed by (seed, epoch): batches of up to `tokens` padded tokens, of similar length."""
        rng = np.random.default_rng([seed, 3, epoch])
        lengths = self.lengths[numbers] + len(self.texts.opening)
        order = numbers[np.argsort(lengths + rng.normal(0, 8, len(numbers)))]
        made, begin = [], 0
        while begin < len(order):
            end, longest = begin, 0
            while end < len(order):
                longest = max(
                    longest, -(-int(self.lengths[order[end]] + len(self.texts.opening)) // MULTIPLE) * MULTIPLE
                )
                if end > begin and longest * (end - begin + 1) > tokens:
                    break
                end += 1
            made.append(order[begin:end])
            begin = end
        for place in rng.permutation(len(made)):
            yield self.batch(made[place], device)


@dataclass(frozen=True, slots=True)
class Batch:
    """ids int64 [B, T]; kinds [B, T] of what follows each (on the host); states float16 [B, T + 1, D]: the target's
    before each token, so that states[:, 1:] are those behind it."""

    ids: Tensor
    kinds: NDArray[np.uint8]
    states: Tensor
