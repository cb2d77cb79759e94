"""The target writing many dialogues at once, one token of each a step, all of it on the device.

A static batch: every row reads one token a step, forced (an opener, what the template puts between turns) or drawn by
the target, and when its dialogue ends the row goes on with the next job. Nothing waits for the host within a chunk of
steps, so on CUDA a step is one graph, replayed. The template's opening is the same in every dialogue: its keys and
values are computed once and stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.backends.checkpoints.checkpoint import Checkpoint
from app.distill.jobs import Jobs

FORCED, ASKED, COLD, HOT = 0, 1, 2, 3
"""What follows a token: something given, an instruction's token, an answer's at T = 0, an answer's above it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What was read in some steps, each [steps, rows]: the token, its place behind the opening (0 begins a dialogue),
    the job, and what followed it (FORCED to HOT). The states [steps * rows, width] behind the tokens are on the
    device."""

    tokens: NDArray[np.int32]
    places: NDArray[np.int16]
    jobs: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    states: Tensor


class Writer:
    """`rows` dialogues under way over one Llama; a context holds `n_positions` tokens."""

    def __init__(
        self,
        weights: Checkpoint,
        *,
        opening: tuple[int, ...],
        closing: tuple[int, ...],
        stop_ids: frozenset[int],
        rows: int,
        n_positions: int,
        steps: int,
        width: int,
        capacity: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        flash: bool = True,
    ) -> None:
        """steps: of a chunk. width: of the jobs' ids. capacity: jobs in all. flash: read only what is in the cache, by
        torch's own kernel, where the device has it."""
        c = weights.config
        self.config, self.rows, self.steps, self.device, self.dtype = c, rows, steps, device, dtype
        self.stop_ids, self.opening = stop_ids, opening
        self._flash = flash and device.type == "cuda"

        def put(*names: str) -> Tensor:
            parts = [torch.tensor(weights.tensor(f"{name}.weight")) for name in names]
            return torch.cat(parts).to(device, dtype)

        self._layers = []
        for layer in range(c.num_layers):
            at = f"model.layers.{layer}.{{}}".format
            self._layers.append(
                (
                    put(at("input_layernorm")),
                    put(*(at(f"self_attn.{part}_proj") for part in "qkv")),
                    put(at("self_attn.o_proj")),
                    put(at("post_attention_layernorm")),
                    put(at("mlp.gate_proj"), at("mlp.up_proj")),
                    put(at("mlp.down_proj")),
                )
            )
        self._norm, self._embedding = put("model.norm"), put("model.embed_tokens")
        tied = c.tied or "lm_head.weight" not in weights
        self._output = self._embedding if tied else put("lm_head")
        factors = weights.tensor("rope_factors.weight") if "rope_factors.weight" in weights else None
        angle = np.outer(np.arange(n_positions), np.tile(c.rope_frequencies(factors), 2))
        self._cos, self._sin = (torch.from_numpy(wave(angle)).to(device, dtype) for wave in (np.cos, np.sin))
        self._n_positions = n_positions
        cache = (c.num_layers, rows, n_positions, c.num_kv_heads, c.head_size)
        self._keys, self._values = (torch.zeros(cache, dtype=dtype, device=device) for _ in range(2))

        def whole(shape: Any, kind: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=device)

        self._row = torch.arange(rows, device=device)
        self._starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self._closing = torch.tensor([*closing, 0], device=device)
        self._stops = torch.zeros(c.vocab_size, dtype=torch.bool, device=device)
        self._stops[sorted(stop_ids)] = True
        # by row: tokens in the cache, the token to be read, its job; tokens of the turn and of the closing so far; the
        # turn
        self._length, self._token, self._job = whole(rows), whole(rows), whole(rows)
        self._drawn, self._closed, self._answering = whole(rows), whole(rows), whole(rows, torch.bool)
        self._next_job, self._num_jobs = whole(()), 0
        self._job_count = whole(())
        self._ids = whole((capacity, width), torch.int32)
        self._lengths, self._asked, self._answer = (whole(capacity) for _ in range(3))
        self._asked_heat, self._answer_heat = (whole(capacity, torch.float32) for _ in range(2))
        self._at = whole(1)
        self._tokens, self._jobs_read = (whole((steps, rows), torch.int32) for _ in range(2))
        self._places, self._kinds = whole((steps, rows), torch.int16), whole((steps, rows), torch.uint8)
        self._states = whole((steps, rows, c.hidden_size), torch.float16)
        self._graph: Any = None
        torch.manual_seed(seed)
        self.opening_states = self._read_opening()

    @property
    def left(self) -> int:
        """Jobs not yet begun."""
        return self._num_jobs - int(self._next_job)

    def add(self, jobs: Jobs) -> None:
        """More jobs, after those there are."""
        begin, end = self._num_jobs, self._num_jobs + len(jobs)
        assert end <= len(self._ids), "more jobs than room for them"
        for own, array in (
            (self._ids, jobs.ids),
            (self._lengths, jobs.lengths),
            (self._asked, jobs.asked),
            (self._answer, jobs.answer),
            (self._asked_heat, jobs.asked_heat),
            (self._answer_heat, jobs.answer_heat),
        ):
            own[begin:end] = torch.from_numpy(array).to(own.device, own.dtype)
        if not begin:  # every row takes its first job
            self._job.copy_(self._row % end)
            self._token.copy_(self._ids[self._job, 0])
            self._next_job.fill_(self.rows)
        self._num_jobs = end
        self._job_count.fill_(end)

    def write(self) -> Chunk:
        """The next `steps` steps. Where jobs run out the first are begun again, with other draws."""
        self._at.zero_()
        if self._graph is None and self.device.type == "cuda":
            self._graph = self._captured()
        for _ in range(self.steps):
            if self._graph is None:
                self._step()
            else:
                self._graph.replay()
        return Chunk(
            self._tokens.cpu().numpy().copy(),
            self._places.cpu().numpy().copy(),
            self._jobs_read.cpu().numpy().copy(),
            self._kinds.cpu().numpy().copy(),
            self._states.reshape(-1, self.config.hidden_size),
        )

    def _captured(self) -> Any:
        kept = [each.clone() for each in self._moving()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(2):
                self._step()
                self._at.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for each, value in zip(self._moving(), kept, strict=True):
            each.copy_(value)
        return graph

    def _moving(self) -> list[Tensor]:
        return [
            self._length, self._token, self._job, self._drawn, self._closed, self._answering, self._next_job, self._at
        ]  # fmt: skip

    @torch.no_grad()
    def _read_opening(self) -> NDArray[np.float16]:
        """Fills the first places of every row's cache; the states [opening, width] there."""
        states = []
        for token in self.opening:
            self._token.fill_(token)
            states.append(self._hidden()[0].to(torch.float16).cpu().numpy())
            self._length += 1
        return np.stack(states)

    @torch.no_grad()
    def _step(self) -> None:
        hidden = self._hidden()
        opening, at, job = len(self.opening), self._at, self._job
        place = self._length - opening
        length, asked, answer = self._lengths[job], self._asked[job], self._answer[job]
        answering = self._answering | ((asked == 0) & (place + 1 >= length))
        given = place + 1 < length
        closing = (self._closed > 0) & ~answering
        heat = torch.where(answering, self._answer_heat[job], self._asked_heat[job])
        token = self._draw(hidden, heat)
        stopped = self._stops[token]
        drawing = ~given & ~closing
        drawn = torch.where(drawing, self._drawn + 1, 0)
        # an instruction that ends is closed by the template, whose first id takes the place of the one drawn
        closes = drawing & ~answering & stopped
        over = drawing & torch.where(answering, stopped | (drawn >= answer), ~stopped & (drawn >= asked))
        over |= self._length + 2 >= self._n_positions
        scored = drawing & ~(closes & (token != self._closing[0]))
        hot = torch.where(heat > 0, HOT, COLD)
        kind = torch.where(scored, torch.where(answering, hot, ASKED), FORCED)
        for own, value in (
            (self._tokens, self._token),
            (self._places, place),
            (self._jobs_read, job),
            (self._kinds, kind),
            (self._states, hidden),
        ):
            own.index_copy_(0, at, value.to(own.dtype)[None])
        at += 1

        after = self._ids[job, (place + 1).clamp(max=self._ids.shape[1] - 1)].long()
        token = torch.where(closes, self._closing[0], token)
        token = torch.where(closing, self._closing[self._closed], token)
        token = torch.where(given, after, token)
        closed = torch.where(closes, 1, torch.where(closing, self._closed + 1, 0))
        ends = closed == len(self._closing) - 1  # the closing's last id is the token now: the answer follows it
        answering = answering | ends
        closed = torch.where(ends, 0, closed)
        drawn = torch.where(ends, 0, drawn)

        fresh = (self._next_job + over.cumsum(0) - 1) % self._job_count
        self._next_job += over.sum()
        job = torch.where(over, fresh, job)
        self._token.copy_(torch.where(over, self._ids[job, 0].long(), token))
        self._length.copy_(torch.where(over, opening, self._length + 1))
        self._job.copy_(job)
        self._drawn.copy_(torch.where(over, 0, drawn))
        self._closed.copy_(torch.where(over, 0, closed))
        self._answering.copy_(answering & ~over)

    def _draw(self, hidden: Tensor, heat: Tensor) -> Tensor:
        """A token for each row, by the Gumbel-max trick: at temperature 0 the likeliest."""
        scores = product(hidden, self._output)
        noise = torch.empty_like(scores).exponential_().clamp_min_(1e-30).log_()
        return scores.addcmul_(noise, heat[:, None], value=-1).argmax(1)

    def _hidden(self) -> Tensor:
        """Reads one token of every row; the final normed states [rows, width]."""
        c, rows = self.config, self.rows
        heads, kv_heads, size = c.num_heads, c.num_kv_heads, c.head_size
        x = self._embedding[self._token]
        cos, sin = (wave[self._length][:, None] for wave in (self._cos, self._sin))
        lengths = (self._length + 1).to(torch.int32)
        mask = (torch.arange(self._n_positions, device=self.device) <= self._length[:, None])[:, None, None]
        for layer, (norm, qkv, o, mlp_norm, gate_up, down) in enumerate(self._layers):
            y = functional.rms_norm(x, norm.shape, norm, c.rms_norm_eps)
            y = functional.linear(y, qkv).view(rows, heads + 2 * kv_heads, size)
            turned = rotate(y[:, : heads + kv_heads], cos, sin)
            keys, values = self._keys[layer], self._values[layer]
            keys.index_put_((self._row, self._length), turned[:, heads:])
            values.index_put_((self._row, self._length), y[:, heads + kv_heads :])
            if self._flash:
                out = self._attended(turned[:, :heads], keys, values, lengths)
            else:
                q = turned[:, :heads].reshape(rows, kv_heads, -1, size)
                out = functional.scaled_dot_product_attention(
                    q, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
                )
            x = x + functional.linear(out.reshape(rows, heads * size), o)
            y = functional.rms_norm(x, mlp_norm.shape, mlp_norm, c.rms_norm_eps)
            gate, up = functional.linear(y, gate_up).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, down)
        return functional.rms_norm(x, self._norm.shape, self._norm, c.rms_norm_eps)

    def _attended(self, q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
        """Attention to the first `lengths` places of every row only. q [rows, heads, size]."""
        n, kv_heads, size = self._n_positions, self.config.num_kv_heads, self.config.head_size
        group = q.shape[1] // kv_heads
        # the query heads of one key head as so many queries: keys and values are read once for all of them
        q = q.reshape(self.rows, kv_heads, group, size).transpose(1, 2).reshape(-1, kv_heads, size)
        flat = (self.rows * n, kv_heads, size)
        out: Tensor = torch.ops.aten._flash_attention_forward(
            q, keys.view(flat), values.view(flat), self._starts * group, self._starts * n, group, n, 0.0, False, False,
            seqused_k=lengths,
        )[0]  # fmt: skip
        return out.view(self.rows, group, kv_heads, size).transpose(1, 2)


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows [n, D] @ matrix [K, D] transposed, with sums and result in float32."""
    if rows.device.type == "cuda" and matrix.dtype == torch.bfloat16:
        return torch.mm(rows.to(matrix.dtype), matrix.T, out_dtype=torch.float32)
    return rows.float() @ matrix.float().T


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin
