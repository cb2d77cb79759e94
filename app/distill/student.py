"""The draft in torch: a few Llama layers under the target's frozen embedding and a trimmed output layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

GetTensor = Callable[[str], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the draft inherits from its target, and its own number of layers."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rms_norm_eps: float
    rope_theta: float
    num_layers: int


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden_size, s.num_heads * s.head_size, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, s.num_kv_heads * s.head_size, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, s.num_kv_heads * s.head_size, bias=False)
        self.o_proj = nn.Linear(s.num_heads * s.head_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # x [B, T, D]
        batch, length, _ = x.shape
        q, k, v = (
            part(x).view(batch, length, -1, self.s.head_size).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        # Written out: on a processor torch's fused attention takes thrice as long for texts of this length. The query
        # heads of one key head lie one below the other.
        repeats = self.s.num_heads // self.s.num_kv_heads
        q = q.reshape(batch, -1, repeats * length, self.s.head_size)
        scores = (q @ k.transpose(2, 3)).float() * self.s.head_size**-0.5
        future = torch.full((length, length), -torch.inf).triu(1).repeat(repeats, 1)
        out = torch.softmax(scores + future, -1).to(v.dtype) @ v
        out = out.view(batch, -1, length, self.s.head_size).transpose(1, 2)
        attended: Tensor = self.o_proj(out.reshape(batch, length, -1))
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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """Layers and final norm; parameter names are Hugging Face's."""

    def __init__(self, s: Shape):
        super().__init__()
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.num_layers))
        self.norm = RMSNorm(s.hidden_size, s.rms_norm_eps)


class Student(nn.Module):
    """embedding [vocab, D] is frozen and not part of the state; kept_ids [K] name the output layer's rows."""

    def __init__(self, shape: Shape, embedding: Tensor, kept_ids: Sequence[int] | NDArray[np.int32]):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden_size, len(kept_ids), bias=False)
        self.embedding = embedding
        self.kept_ids = torch.as_tensor(np.asarray(kept_ids, np.int64))
        half = shape.head_size // 2
        self.frequencies = shape.rope_theta ** -(torch.arange(half, dtype=torch.float64) / half)

    def hidden(self, ids: Tensor) -> Tensor:
        """ids int64 [B, T] -> final hidden states [B, T, D]."""
        angle = torch.outer(torch.arange(ids.shape[1], dtype=torch.float64), self.frequencies)
        angle = torch.cat([angle, angle], -1)
        cos, sin = angle.cos().float(), angle.sin().float()
        x = self.embedding[ids]
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.model.norm(x)
        return out

    def copy_layers(self, get: GetTensor, layers: Sequence[int]) -> None:
        """Starts from the target's `layers` and final norm."""
        state = self.state_dict()
        with torch.no_grad():
            for name, value in state.items():
                if name.startswith("model.layers."):
                    own, rest = name.removeprefix("model.layers.").split(".", 1)
                    value.copy_(torch.tensor(get(f"model.layers.{layers[int(own)]}.{rest}")))
            state["model.norm.weight"].copy_(torch.tensor(get("model.norm.weight")))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def ridge(student_hidden: Tensor, teacher_hidden: Tensor, output: Tensor, strength: float = 1e-3) -> Tensor:
    """The output layer [K, D] with which an untrained student comes nearest to its teacher.

    Fits W minimising |student_hidden W - teacher_hidden|^2 + a penalty, so that output (W x) is output W^T x.
    """
    s, t = student_hidden.double(), teacher_hidden.double()
    gram = s.T @ s
    gram.diagonal().add_(strength * gram.diagonal().mean())
    return (output.double() @ torch.linalg.solve(gram, s.T @ t).T).float()


def grown(earlier: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An earlier draft's state with the layers that only `fresh` has: at first they add nothing to the residual stream,
    so the deeper draft begins by saying what the earlier one did."""
    silent = ("o_proj.weight", "down_proj.weight")
    added = {
        name: torch.zeros_like(value) if name.endswith(silent) else value
        for name, value in fresh.items()
        if name not in earlier
    }
    return {**earlier, **added}


def extended(head: Tensor, output: Tensor, old_ids: Tensor, ids: Tensor) -> Tensor:
    """A trained output layer [len(old_ids), D] over more ids: [len(ids), D]; `ids` holds every old one.

    The new rows come from the target's `output` [V, D] by the linear map that takes its old rows nearest to the
    trained ones.
    """
    mapping = torch.linalg.lstsq(output[old_ids].double(), head.double()).solution
    rows = (output[ids].double() @ mapping).float()
    rows[torch.searchsorted(ids, old_ids)] = head
    return rows
