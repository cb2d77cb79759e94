"""Single passes on a GPU: the card's bandwidth, matrix products, programs by width, the draft with its draw."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from app.backends.torch import devices, identity, precision
from app.backends.torch.model import TorchModel, TorchSequence
from app.bench import gpu_models
from app.bench.gpu_plan import SAMPLINGS, Plan
from app.record.trace import Sampling


def timed(function: Callable[[], Any], device: Any, repeats: int) -> float:
    """Median seconds of a call, the device waited for."""
    function()
    seconds = []
    for _ in range(repeats):
        devices.synchronize(device)
        begin = time.perf_counter()
        function()
        devices.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def bandwidth(device: Any) -> dict[str, float]:
    """Bytes a second, read and written, of a copy on the device; and of reading alone."""
    size = 2**30 if device.type == "cuda" else 2**26
    source, goal = (torch.ones(size, dtype=torch.int32, device=device) for _ in range(2))
    copy = timed(lambda: goal.copy_(source), device, 10)
    read = timed(lambda: source.max(), device, 10)
    return {"copy_bytes_s": 2 * source.nbytes / copy, "read_bytes_s": source.nbytes / read}


def matmuls(plan: Plan, copy: float) -> list[dict[str, Any]]:
    """Each matrix of the target by rows: milliseconds, and its share of the copy bandwidth. Several matrices in turn,
    so that none is found in a cache."""
    shape, dtype = plan.target, precision.NAMES[plan.dtype]
    heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    sizes = {
        "qkv": (heads, shape.hidden_size),
        "out": (shape.hidden_size, shape.hidden_size),
        "gate_up": (2 * shape.intermediate_size, shape.hidden_size),
        "down": (shape.hidden_size, shape.intermediate_size),
    }
    rows = []
    for name, size in sizes.items():
        count = max(2, min(16, 2**30 // (2 * size[0] * size[1])))
        matrices = [torch.randn(size, dtype=dtype, device=plan.device) for _ in range(count)]
        for width in (1, 2, 4, 8, 16):
            x = torch.randn(width, size[1], dtype=dtype, device=plan.device)
            seconds = replayed(partial(_products, x, matrices), plan.device)
            each = seconds / count
            rows.append(
                {"matrix": name, "rows": width, "us": round(1e6 * each, 2), "share": matrices[0].nbytes / each / copy}
            )
    return rows


def _products(x: Any, matrices: Sequence[Any]) -> list[Any]:
    return [torch.nn.functional.linear(x, each) for each in matrices]


def replayed(function: Callable[[], Any], device: Any, repeats: int = 20) -> float:
    """Median seconds of a recorded call; of a plain one where nothing can be recorded."""
    from app.backends.torch.programs import Program, pool_of

    with torch.inference_mode():
        program = Program(function, device, pool_of(device, True))
        return timed(program.run, device, repeats)


def at_context(model: TorchModel, plan: Plan, context: int) -> TorchSequence:
    """A sequence that holds the beginning of the target's text."""
    sequence = model.new_sequence((1, 5, 8, 16))
    sequence.forward(gpu_models.chain(plan.target.vocab_size, context), 1)
    return sequence


def passes(model: TorchModel, plan: Plan, context: int) -> dict[str, float]:
    """Milliseconds of a pass by its program's rows, the logits left on the device."""
    sequence = at_context(model, plan, context)
    milliseconds = {}
    for width in model.widths or (1, 5, 8, 16):
        ids = gpu_models.chain(plan.target.vocab_size, width, 7)

        def once(ids: list[int] = ids) -> None:
            sequence.rollback(context)
            sequence._score(ids, len(ids), None)

        milliseconds[str(width)] = 1e3 * timed(once, plan.device, plan.repeats)
    sequence.close()
    return milliseconds


def drafting(draft: TorchModel, plan: Plan) -> dict[str, float]:
    """Milliseconds of one drafted token, its draw included, by sampling: from the ids given to the token known here."""
    sequence = draft.new_sequence((1, 2))
    sequence.forward(gpu_models.chain(plan.target.vocab_size, plan.context), 1)
    milliseconds = {}
    for name, sampling in SAMPLINGS.items():

        def once(sampling: Sampling = sampling) -> None:
            sequence.rollback(plan.context)
            sequence.score([3], 1, sampling, RuntimeError, 0.5).draw(0, 0.5)

        milliseconds[name] = 1e3 * timed(once, plan.device, plan.repeats)
    sequence.close()
    return milliseconds


def profile(model: TorchModel, plan: Plan) -> list[dict[str, Any]]:
    """Kernels of one pass of one row, by the time they take."""
    sequence = at_context(model, plan, plan.context)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if plan.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as record:
        sequence._score([3], 1, None)
        devices.synchronize(plan.device)
    sequence.close()
    key = "self_device_time_total" if plan.device.type == "cuda" else "self_cpu_time_total"
    events = sorted(record.key_averages(), key=lambda event: -getattr(event, key))
    return [{"kernel": event.key[:90], "count": event.count, "us": getattr(event, key)} for event in events[:16]]


def found_identity(model: TorchModel) -> dict[str, Any]:
    """What the self-check says, for the widths as they are and for those it chooses."""
    native = {str(width): _difference(model, (width,)) for width in model.widths}
    between = identity.difference(model)
    chosen = identity.settle(model)
    return {"within_width": native, "between_widths": between, "chosen": chosen.widths, "difference": chosen.difference}


def _difference(model: TorchModel, widths: tuple[int, ...]) -> float:
    kept, model.widths = model.widths, widths
    try:
        return identity.difference(model, widths[0])
    finally:
        model.widths = kept


def plain_passes(network: Any, plan: Plan) -> dict[str, float]:
    """The same passes with torch's own operations between the matrix products instead of the fused kernels."""
    return passes(gpu_models.model(network, plan.target, "target", plan.dtype, fused=False), plan, plan.context)
