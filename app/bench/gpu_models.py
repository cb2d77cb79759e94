"""Models of real shapes with random weights, made where they run, whose text is known: times without fetching anything.

Every layer's matrices are read and multiplied as they would be, but add little to what the embeddings say, and the
output layer is laid out so that token t is followed by `following(t)`. The draft says the same but for a given share of
the tokens, so how many of its tokens are kept is chosen, and real.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from app.backends.checkpoints.config import LlamaConfig
from app.backends.torch import int4, llama
from app.backends.torch.model import TorchModel
from app.backends.torch.network import Network

STEP = 7919  # a prime that shares no factor with the vocabularies: the chain of tokens visits all of them
PEAK = 15.0  # logit of the token that follows; the others' spread is a fraction of 1
NOISE = 0.02  # what a layer adds, in parts of the embeddings


def config(
    layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocab: int, *, n_positions: int = 8192
) -> LlamaConfig:
    return LlamaConfig(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=hidden // heads,
        vocab_size=vocab,
        n_positions=n_positions,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
    )


LLAMA_3_1_8B = config(32, 4096, 14336, 32, 8, 128256)
LLAMA_3_1_70B = config(80, 8192, 28672, 64, 8, 128256)
LLAMA_3_2_1B = config(16, 2048, 8192, 32, 8, 128256)
SMALL = config(30, 576, 1536, 9, 3, 49152, n_positions=2048)
SMALL_DRAFT = config(2, 576, 1536, 9, 3, 49152, n_positions=2048)
TINY = config(2, 64, 96, 4, 2, 1024, n_positions=512)
TINY_DRAFT = config(1, 32, 48, 2, 1, 1024, n_positions=512)


def following(vocab: int, wrong: float, seed: int = 0) -> Any:
    """By token, the one that follows it, int64 [vocab]. wrong: the share of tokens followed by another one's."""
    after = (torch.arange(vocab) + STEP) % vocab
    generator = torch.Generator().manual_seed(seed)
    swapped = torch.randperm(vocab, generator=generator)[: int(wrong * vocab)]
    after[swapped] = after[swapped.roll(1)]
    return after


def chain(vocab: int, length: int, start: int = 1) -> list[int]:
    """A prompt that the target would have said."""
    return [(start + STEP * i) % vocab for i in range(length)]


def network(
    shape: LlamaConfig, device: Any, dtype: Any, *, wrong: float = 0.0, seed: int = 0, packed: bool = False
) -> Network:
    """packed: the layers' matrices in 4 bits, each as soon as it is made."""
    generator = torch.Generator(device).manual_seed(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Any:
        values = torch.empty(rows, columns, dtype=dtype, device=device)
        return values.normal_(0, gain / columns**0.5, generator=generator)

    def pack(matrix: Any) -> Any:
        return int4.packed(matrix) if packed else matrix

    heads, kv_heads = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    ones = torch.ones(shape.hidden_size, dtype=dtype, device=device)
    layers = [
        llama.Layer(
            norm=ones,
            qkv=pack(matrix(heads + 2 * kv_heads, shape.hidden_size)),
            qkv_bias=None,
            out=pack(matrix(shape.hidden_size, heads, NOISE)),
            out_bias=None,
            mlp_norm=ones,
            gate_up=pack(matrix(2 * shape.intermediate_size, shape.hidden_size)),
            gate_up_bias=None,
            down=pack(matrix(shape.hidden_size, shape.intermediate_size, NOISE)),
            down_bias=None,
        )
        for _ in range(shape.num_layers)
    ]
    embeddings = torch.empty(shape.vocab_size, shape.hidden_size, dtype=dtype, device=device)
    embeddings.normal_(generator=generator)
    head = torch.empty_like(embeddings)
    head[following(shape.vocab_size, wrong, seed).to(device)] = embeddings * (PEAK / shape.hidden_size)
    frequencies = torch.from_numpy(shape.rope_frequencies()).float()
    stages = llama.staged(layers, [device] * shape.num_layers, frequencies, embeddings, ones, head)
    return Network(tuple(stages), llama.shape_of(shape), shape.vocab_size, dtype)


def flat(of: Network, peak: float = 0.0, seed: int = 1) -> Network:
    """The same layers below a random output layer, of logits that spread by 1: near ties everywhere, the hardest text
    to say twice alike. peak: the logit of the token that follows, instead of PEAK."""
    *before, last = of.stages
    assert last.head is not None
    generator = torch.Generator(last.device).manual_seed(seed)
    head = torch.empty_like(last.head).normal_(0, last.head.shape[1] ** -0.5, generator=generator)
    head += last.head * (peak / PEAK)
    return replace(of, stages=(*before, replace(last, head=head)))


def model(of: Network, shape: LlamaConfig, name: str, dtype: str, **options: Any) -> TorchModel:
    return TorchModel(
        of,
        name=name,
        dtype=dtype,
        n_positions=shape.n_positions,
        vocab_size=shape.vocab_size,
        num_parameters=shape.num_parameters,
        **options,
    )
