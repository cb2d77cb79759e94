"""The draft in torch: a few Llama layers under the target's frozen embedding and a trimmed output layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.backends.checkpoints.checkpoint import Checkpoint
from app.distill.writer import rotate

GetTensor = Callable[[str], NDArray[np.float32]]
Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the draft inherits from its target, and its own number of layers. frequencies: radians a position."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rms_norm_eps: float
    frequencies: tuple[float, ...]
    num_layers: int

    @staticmethod
    def of(target: Checkpoint, num_layers: int) -> Shape:
        c = target.config
        factors = target.tensor("rope_factors.weight") if "rope_factors.weight" in target else None
        sizes = (c.hidden_size, c.intermediate_size, c.num_heads, c.num_kv_heads, c.head_size)
        return Shape(*sizes, c.rms_norm_eps, tuple(c.rope_frequencies(factors).tolist()), num_layers)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden_size, s.num_heads * s.head_size, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, s.num_kv_heads * s.head_size, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, s.num_kv_heads * s.head_size, bias=False)
        self.o_proj = nn.Linear(s.num_heads * s.head_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache) -> Tensor:
        """x [B, T, D]. cache: keys and values of the passes before this one, by pass; this one's are added."""
        batch, length, _ = x.shape
        q, k, v = (
            part(x).view(batch, length, -1, self.s.head_size).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        repeats = self.s.num_heads // self.s.num_kv_heads
        cache.append((rotate(k, cos, sin).repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)))
        keys, values = (torch.cat(part, 2) if len(cache) > 1 else part[0] for part in zip(*cache, strict=True))
        mask = seen(length, len(cache) - 1, x.device) if len(cache) > 1 else None
        out = functional.scaled_dot_product_attention(
            rotate(q, cos, sin), keys, values, attn_mask=mask, is_causal=mask is None
        )
        attended: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return attended


class MLP(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.input_layernorm = RMSNorm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = RMSNorm(s.hidden_size, s.rms_norm_eps)
        self.mlp = MLP(s)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """Layers and final norm; parameter names are Hugging Face's."""

    def __init__(self, s: Shape):
        super().__init__()
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.num_layers))
        self.norm = RMSNorm(s.hidden_size, s.rms_norm_eps)


class Student(nn.Module):
    """embedding [vocab, D] is frozen and not part of the state; kept_ids [K] name the output layer's rows.

    conditioned: beside a token it reads the final state of the position before it, the target's own where the target
    was there, else its own of that position. `fusion` [D, 2 D] maps either to what is added to the embedding: its first
    half the target's, its second its own. At first it adds nothing.
    """

    def __init__(
        self,
        shape: Shape,
        embedding: Tensor,
        kept_ids: Sequence[int] | NDArray[np.int32],
        conditioned: bool = False,
    ):
        super().__init__()
        self.shape, self.conditioned = shape, conditioned
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden_size, len(kept_ids), bias=False)
        if conditioned:
            self.fusion = nn.Linear(2 * shape.hidden_size, shape.hidden_size, bias=False)
            nn.init.zeros_(self.fusion.weight)
        self.register_buffer("embedding", embedding, persistent=False)
        self.register_buffer("kept_ids", torch.as_tensor(np.asarray(kept_ids, np.int64)), persistent=False)
        self.frequencies = torch.tensor(shape.frequencies, dtype=torch.float64)

    def unrolled(self, ids: Tensor, before: Tensor | None, depth: int) -> list[Tensor]:
        """The final states [B, T, D] from which a round's first, second, ... draft at each position is picked.

        ids int64 [B, T]; before [B, T, D]: the target's state before each token (None where not conditioned). The first
        reads the target's states all along. The n-th at position t reads its own state of the pass before at t - 1, and
        sees what a round would have in its cache: rows of the first pass up to t - n + 1, then one of each pass.
        """
        length = ids.shape[1]
        angle = torch.outer(torch.arange(length, dtype=torch.float64), self.frequencies)
        angle = torch.cat([angle, angle], -1).to(device=ids.device, dtype=torch.float32)
        cos, sin = angle.cos(), angle.sin()
        embedded = self.embedding[ids]
        if torch.is_autocast_enabled(ids.device.type):
            embedded = embedded.to(torch.get_autocast_dtype(ids.device.type))
        caches: list[Cache] = [[] for _ in self.model.layers]
        states: list[Tensor] = []
        theirs, own = self.fusion.weight.chunk(2, 1) if self.conditioned else (None, None)
        for number in range(depth):
            x = embedded
            if theirs is not None and own is not None:
                assert before is not None
                if number == 0:
                    x = x + functional.linear(before.to(x.dtype), theirs)
                else:
                    x = x + functional.linear(functional.pad(states[-1][:, :-1], (0, 0, 1, 0)), own)
            elif number:
                break  # without states every draft is as good as a first one
            for layer, cache in zip(self.model.layers, caches, strict=True):
                x = layer(x, cos, sin, cache)
            states.append(self.model.norm(x))
        return states

    def hidden(self, ids: Tensor, before: Tensor | None = None) -> Tensor:
        """ids int64 [B, T] -> final states [B, T, D] of a round's first draft."""
        return self.unrolled(ids, before, 1)[0]

    def copy_layers(self, get: GetTensor, layers: Sequence[int]) -> None:
        """Starts from the target's `layers` and final norm."""
        state = self.state_dict()
        with torch.no_grad():
            for name, value in state.items():
                if name.startswith("model.layers."):
                    own, rest = name.removeprefix("model.layers.").split(".", 1)
                    value.copy_(torch.tensor(get(f"model.layers.{layers[int(own)]}.{rest}")))
            state["model.norm.weight"].copy_(torch.tensor(get("model.norm.weight")))


def seen(length: int, number: int, device: torch.device) -> Tensor:
    """bool [length, (number + 1) * length]: which rows of passes 0 to `number` a row of pass `number` attends to."""
    query, key = torch.arange(length, device=device)[:, None], torch.arange(length, device=device)[None]
    blocks = [key <= query - number, *(key == query - (number - earlier) for earlier in range(1, number + 1))]
    return torch.cat(blocks, 1)


def ridge(student_hidden: Tensor, teacher_hidden: Tensor, output: Tensor, strength: float = 1e-3) -> Tensor:
    """The output layer [K, D] with which an untrained student comes nearest to its teacher.

    Fits W minimising |student_hidden W - teacher_hidden|^2 + a penalty, so that output (W x) is output W^T x.
    """
    s, t = student_hidden.double(), teacher_hidden.double()
    gram = s.T @ s
    gram.diagonal().add_(strength * gram.diagonal().mean())
    return (output.double() @ torch.linalg.solve(gram, s.T @ t).T).float()
