"""A Llama as an OpenVINO graph with paged attention: the hand-written core of the CPU backend.

The graph is written in the stateful form that OpenVINO's paged attention transformation recognises
(ReadValue -> Gather(beam_idx) -> Concat -> ScaledDotProductAttention); the transformation then replaces state
and mask by explicit `past_lens`, `block_indices` and `key_cache.N` / `value_cache.N` inputs, so that rolling a
sequence back is passing a smaller `past_lens`. After it, axis 0 of every activation counts tokens.

q, k, v are one matmul and gate, up another: per-operator overhead, not bandwidth, limits small models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset6
from openvino import opset13 as op
from openvino._offline_transformations import paged_attention_transformation

from app.backends.checkpoints.checkpoint import Checkpoint
from app.backends.checkpoints.tensor_check import expected_shape
from app.backends.openvino import weights

Node = Any  # openvino ships no types for its operators


def stateful(checkpoint: Checkpoint, dtype: str, states: bool = False) -> ov.Model:
    """The graph of `checkpoint` with weights stored as `dtype` (int8, bf16, f16 or f32), before `paged`.

    states: with the output `hidden` as well.
    """
    return _llama(checkpoint, dtype, states)


def paged(graph: ov.Model) -> ov.Model:
    """`graph` with paged attention, changed in place.

    Inputs: input_ids, position_ids [T]; logit_rows [N], the rows of T to score; paged attention's own; of a conditioned
    draft before [T, 1, 2 D], see `app.engine.sight.Sight`. Outputs: logits float32 [N, 1, rows of the output layer],
    and where they are asked for the final states hidden float32 [T, 1, D].
    """
    paged_attention_transformation(graph)
    return graph


def _const(value: Any, dtype: Any = np.int64) -> Node:
    return op.constant(np.array(value, dtype))


def _llama(checkpoint: Checkpoint, dtype: str, states: bool) -> ov.Model:
    config = checkpoint.config
    heads, kv_heads, head_size = config.num_heads, config.num_kv_heads, config.head_size

    def parameter(shape: list[int], kind: Any, name: str) -> Node:
        node = op.parameter(shape, kind, name=name)
        node.output(0).set_names({name})
        return node

    ids = parameter([-1, -1], np.int64, "input_ids")
    mask_length = parameter([-1, -1], np.int64, "attention_mask")
    positions = parameter([-1, -1], np.int64, "position_ids")
    beam = parameter([-1], np.int32, "beam_idx")
    logit_rows = parameter([-1], np.int64, "logit_rows")

    four_bits = getattr(checkpoint, "four_bits", lambda name: None)

    def weight(*names: str) -> Node:
        """The stacked weights of `names`; read one after the other, so that little is held beside the graph."""
        if dtype == "int8" and len(packed := [four for name in names if (four := four_bits(f"{name}.weight"))]) == len(
            names
        ):
            return weights.four_bits(packed)
        shapes = [expected_shape(config, f"{name}.weight") for name in names]
        parts = (checkpoint.tensor(f"{name}.weight") for name in names)
        return weights.matrix(parts, (sum(rows for rows, _ in shapes), shapes[0][1]), dtype, f"{names[0]}.weight")

    def linear(x: Node, *names: str) -> Node:
        """x times the stacked weights of `names`, plus their biases where the checkpoint has any."""
        out = op.matmul(x, weight(*names), False, True)
        if not any(f"{name}.bias" in checkpoint for name in names):
            return out
        biases = [
            checkpoint.tensor(f"{name}.bias")
            if f"{name}.bias" in checkpoint
            else np.zeros(expected_shape(config, f"{name}.bias"), np.float32)
            for name in names
        ]
        return op.add(out, _const(np.concatenate(biases), np.float32))

    def rms_norm(x: Node, name: str) -> Node:
        mean = op.reduce_mean(op.power(x, _const(2, np.float32)), _const([-1]), True)
        root = op.sqrt(op.add(mean, _const(config.rms_norm_eps, np.float32)))
        inverse = op.divide(_const(1, np.float32), root)
        scale = checkpoint.tensor(f"{name}.weight").reshape(1, 1, -1)
        return op.multiply(op.multiply(x, inverse), _const(scale, np.float32))

    factors = checkpoint.tensor("rope_factors.weight") if "rope_factors.weight" in checkpoint else None
    frequencies = config.rope_frequencies(factors).reshape(1, -1, 1)
    row = op.convert(op.unsqueeze(positions, _const(1)), np.float32)
    half_angle = op.transpose(op.matmul(_const(frequencies, np.float32), row, False, False), _const([0, 2, 1]))
    angle = op.concat([half_angle, half_angle], -1)
    cos, sin = (op.unsqueeze(wave(angle), _const(1)) for wave in (op.cos, op.sin))

    def rotary(x: Node) -> Node:
        low, high = op.variadic_split(x, _const(3), _const([head_size // 2] * 2)).outputs()
        turned = op.concat([op.multiply(high, _const(-1, np.float32)), low], -1)
        return op.add(op.multiply(x, cos), op.multiply(turned, sin))

    def size(node: Node, axis: int) -> Node:
        return op.gather(op.shape_of(node), _const([axis]), _const(0))

    assigns = []

    def cached(new: Node, name: str) -> Node:
        empty_shape = op.concat([size(ids, 0), _const([kv_heads]), _const([0]), _const([head_size])], 0)
        empty = op.broadcast(_const(0, np.float32), empty_shape)
        shape = ov.PartialShape([-1, kv_heads, -1, head_size])
        past = op.gather(opset6.read_value(empty, name, ov.Type.f32, shape), beam, _const(0))
        both = op.concat([past, new], 2)
        assigns.append(opset6.assign(both, name))
        return both

    def repeated(x: Node) -> Node:
        """[B, kv_heads, T, head_size] -> [B, heads, T, head_size]"""
        groups = _const([heads // kv_heads])
        shape = op.concat([size(x, 0), size(x, 1), groups, size(x, 2), size(x, 3)], 0)
        wide = op.broadcast(op.unsqueeze(x, _const(2)), shape, None, "BIDIRECTIONAL")
        return op.reshape(wide, _const([0, heads, -1, head_size]), True)

    # the causal mask exists only for the transformation to recognise and remove
    length, total = size(ids, 1), size(mask_length, 1)
    keys = op.range(_const(0), op.squeeze(total, _const(0)), _const(1), "i64")
    steps = op.range(_const(0), op.squeeze(length, _const(0)), _const(1), "i64")
    queries = op.add(steps, op.squeeze(op.subtract(total, length), _const(0)))
    causal = op.less_equal(op.unsqueeze(keys, _const(0)), op.unsqueeze(queries, _const(1)))
    masked = op.select(causal, _const(0, np.float32), _const(-65504, np.float32))
    mask = op.unsqueeze(op.unsqueeze(masked, _const(0)), _const(0))

    embedding = weight("model.embed_tokens")
    x = op.gather(embedding, op.convert(ids, np.int32), _const(0))
    inputs = [ids, mask_length, positions, beam, logit_rows]
    if config.conditioned:
        inputs.append(parameter([-1, -1, 2 * config.hidden_size], np.float32, "before"))
        x = op.add(x, linear(inputs[-1], "fusion"))
    for layer in range(config.num_layers):
        at = f"model.layers.{layer}.{{}}".format
        projections = [at(f"self_attn.{part}_proj") for part in "qkv"]
        qkv = linear(rms_norm(x, at("input_layernorm")), *projections)
        qkv = op.reshape(qkv, _const([0, 0, heads + 2 * kv_heads, head_size]), True)
        qkv = op.transpose(qkv, _const([0, 2, 1, 3]))
        q, k, v = op.variadic_split(qkv, _const(1), _const([heads, kv_heads, kv_heads])).outputs()
        k = cached(rotary(k), f"past_key_values.{layer}.keypresent.{layer}.key")
        v = cached(v, f"past_key_values.{layer}.valuepresent.{layer}.value")
        attended = op.scaled_dot_product_attention(rotary(q), repeated(k), repeated(v), mask)
        attended = op.transpose(attended, _const([0, 2, 1, 3]))
        attended = op.reshape(attended, _const([0, 0, heads * head_size]), True)
        x = op.add(x, linear(attended, at("self_attn.o_proj")))
        both = linear(rms_norm(x, at("post_attention_layernorm")), at("mlp.gate_proj"), at("mlp.up_proj"))
        gate, up = op.variadic_split(both, _const(2), _const([config.intermediate_size] * 2)).outputs()
        x = op.add(x, linear(op.multiply(op.swish(gate), up), at("mlp.down_proj")))

    if states:
        hidden = rms_norm(x, "model.norm")
        scored = op.gather(hidden, logit_rows, _const(0))
    else:
        scored = rms_norm(op.gather(x, logit_rows, _const(0)), "model.norm")
    if config.tied or "lm_head.weight" not in checkpoint:
        logits = op.matmul(scored, embedding, False, True)
    else:
        logits = linear(scored, "lm_head")
    logits.output(0).set_names({"logits"})
    results = [op.result(logits)]
    if states:
        hidden.output(0).set_names({"hidden"})
        results.append(op.result(hidden))
    return ov.Model(results, assigns, inputs)
