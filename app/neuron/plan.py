"""Neuron sizing: which instance holds a pair, at which tensor parallel degree, loaded in which order. Pure; stdlib
only.

Nothing here touches hardware. Two figures are given, and they are not the same thing:

* `cores_needed`, the published rule of thumb: a model's size as neuron-top shows it / 16 GB a core;
* `CoreMemory`, what one core holds once both models are spread over it at the planned degree, against its 16 GiB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from app.errors import RequestError
from app.neuron.catalogue import (
    LIBRARIES,
    NXD_INFERENCE,
    TRANSFORMERS_NEURONX,
    Instance,
    ModelConfig,
    instance_named,
    model_config,
)
from app.neuron.memory import DTYPE_BYTES, GB, WORKING_BYTES_PER_CORE, CoreMemory, kv_bytes
from app.neuron.sizing import Sizing

NEURON_TOP_CORES = 32  # the published sizes were read with a model spread over this many cores


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model of the pair. memory_bytes: weights, KV cache and working memory as neuron-top would show them.

    cores_needed: that / 16 GB; the model needs more than floor(cores_needed) cores. min_tp_degree: the lowest degree
    of the instance that reaches it, None where none does. tp_degree: the recommended or the asked one, None where
    the plan is refused for want of one.
    """

    name: str
    num_parameters: int
    weights_bytes: int
    kv_bytes: int
    memory_bytes: int
    cores_needed: float
    min_tp_degree: int | None
    tp_degree: int | None

    @property
    def more_than_cores(self) -> int:
        return math.floor(self.cores_needed)

    @property
    def cores_phrase(self) -> str:
        """The rule of thumb in words."""
        if self.cores_needed < 1:
            return "less than one core"
        return f"more than {self.more_than_cores} core" + ("s" if self.more_than_cores > 1 else "")

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parameters": self.num_parameters,
            "weights_gb": _gb(self.weights_bytes),
            "kv_gb": _gb(self.kv_bytes),
            "memory_gb": _gb(self.memory_bytes),
            "cores_needed": round(self.cores_needed, 2),
            "more_than_cores": self.more_than_cores,
            "min_tp_degree": self.min_tp_degree,
            "tp_degree": self.tp_degree,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and how a pair runs, or why not: `refusals` is empty where it can. per_core is None without a degree."""

    instance: Instance
    library: str
    dtype: str
    n_positions: int
    target: ModelPlan
    draft: ModelPlan
    per_core: CoreMemory | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]
    load_order: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.refusals

    @property
    def tp_degree(self) -> int | None:
        """The degree of both models; None where the plan is refused for want of one."""
        return self.target.tp_degree if self.target.tp_degree == self.draft.tp_degree else None

    @property
    def pair_bytes(self) -> int:
        return self.target.memory_bytes + self.draft.memory_bytes

    @property
    def environment(self) -> dict[str, str]:
        """What must be set before the library is imported."""
        return {"NEURON_RT_NUM_CORES": str(self.tp_degree)} if self.ok else {}

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types; gigabytes are 10^9 bytes."""
        core = self.per_core
        return {
            "ok": self.ok,
            "instance": self.instance.name,
            "library": self.library,
            "cores": self.instance.num_cores,
            "device_gib": self.instance.device_gib,
            "allowed_tp_degrees": list(self.instance.all_degrees),
            "doubtful_tp_degrees": list(self.instance.doubtful),
            "dtype": self.dtype,
            "n_positions": self.n_positions,
            "target": self.target.to_dict(),
            "draft": self.draft.to_dict(),
            "pair_gb": _gb(self.pair_bytes),
            "tp_degree": self.tp_degree,
            "per_core": None
            if core is None
            else {
                "target_weights_gb": _gb(core.target_weights),
                "target_kv_gb": _gb(core.target_kv),
                "draft_weights_gb": _gb(core.draft_weights),
                "draft_kv_gb": _gb(core.draft_kv),
                "working_gb": _gb(core.working),
                "total_gb": _gb(core.total),
                "capacity_gb": _gb(core.capacity),
            },
            "environment": self.environment,
            "load_order": list(self.load_order),
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "refusals": list(self.refusals),
        }


def plan(
    instance: str | Instance,
    target: str | ModelConfig,
    draft: str | ModelConfig,
    dtype: str = "bf16",
    n_positions: int = 2048,
    *,
    target_tp: int | None = None,
    draft_tp: int | None = None,
    library: str = TRANSFORMERS_NEURONX,
) -> Plan:
    """Size a pair on an instance; with degrees given, judge those instead of recommending.

    target_tp alone is taken for both models. What cannot work is told in `Plan.refusals`; RequestError and PairError
    are for values that mean nothing (an unknown instance, model, precision or library).
    """
    if library not in LIBRARIES:
        raise RequestError(f"There is no Neuron library {library!r}; use one of {', '.join(LIBRARIES)}.")
    if n_positions < 2:
        raise RequestError(f"A sequence of {n_positions} positions holds no text; give --n-positions 2 or more.")
    sizing = Sizing(
        instance_named(instance) if isinstance(instance, str) else instance,
        model_config(target) if isinstance(target, str) else target,
        model_config(draft) if isinstance(draft, str) else draft,
        named_dtype(dtype),
        n_positions,
        library,
    )
    refusals = sizing.refusals_of_the_pair()
    asked_target = target_tp if target_tp is not None else draft_tp
    asked_draft = draft_tp if draft_tp is not None else target_tp
    chosen_target, chosen_draft = asked_target, asked_draft
    if (nowhere := sizing.refusal_of_the_instance()) is not None:
        refusals.append(nowhere)
        chosen_target = chosen_draft = None
    elif asked_target is not None and asked_draft is not None:
        refusals += sizing.refusals_of_degrees(asked_target, asked_draft)
    else:
        chosen_target = chosen_draft = sizing.recommended()
        if chosen_target is None:
            refusals.append(sizing.too_big(sizing.instance.all_degrees[-1]))

    target_plan = _model_plan(sizing, sizing.target, chosen_target)
    draft_plan = _model_plan(sizing, sizing.draft, chosen_draft)
    shared = chosen_target if chosen_target == chosen_draft and chosen_target and chosen_target > 0 else None
    per_core = None if shared is None else sizing.memory(shared)
    reasons: list[str] = []
    load_order: tuple[str, ...] = ()
    if not refusals and shared is not None and per_core is not None:
        reasons = _reasons(sizing, target_plan, draft_plan, per_core, recommended=asked_target is None)
        load_order = _load_order(sizing, shared)
    return Plan(
        instance=sizing.instance,
        library=library,
        dtype=sizing.dtype,
        n_positions=n_positions,
        target=target_plan,
        draft=draft_plan,
        per_core=per_core,
        reasons=tuple(reasons),
        warnings=(*sizing.warnings(), *(() if shared is None else sizing.warnings_of_degree(shared))),
        refusals=tuple(refusals),
        load_order=load_order,
    )


def named_dtype(name: str) -> str:
    """The precision of this name, however it is written. Raises RequestError."""
    dtype = name.strip().lower()
    if dtype not in DTYPE_BYTES:
        raise RequestError(f"There is no precision {name!r} on Neuron; choose bf16, f16 or f32.")
    return dtype


# --- the parts of a plan ---


def _model_plan(sizing: Sizing, model: ModelConfig, tp_degree: int | None) -> ModelPlan:
    instance = sizing.instance
    weights = model.num_parameters * DTYPE_BYTES[sizing.dtype]
    kv = kv_bytes(model, sizing.dtype, sizing.n_positions)
    # The rule of thumb calls a model's size what neuron-top shows with it on every core of a large instance; it is the
    # same for all of those. A smaller instance cannot spread it further than its own cores.
    spread = instance.num_cores if 0 < instance.num_cores <= 12 else NEURON_TOP_CORES
    memory = weights + kv + WORKING_BYTES_PER_CORE * spread
    cores = memory / (instance.core_gb * GB)
    return ModelPlan(
        name=model.name,
        num_parameters=model.num_parameters,
        weights_bytes=weights,
        kv_bytes=kv,
        memory_bytes=memory,
        cores_needed=cores,
        min_tp_degree=next((degree for degree in instance.all_degrees if degree >= cores), None),
        tp_degree=tp_degree,
    )


def _reasons(
    sizing: Sizing, target: ModelPlan, draft: ModelPlan, per_core: CoreMemory, *, recommended: bool
) -> list[str]:
    instance, degree = sizing.instance, target.tp_degree
    reasons = [
        f"In {sizing.dtype}, {model.name} takes about {model.memory_bytes / GB:.0f} GB: {model.cores_phrase} of "
        f"{instance.core_gb} GB."
        for model in (target, draft)
    ]
    allowed = ", ".join(map(str, instance.all_degrees))
    least = [f"{m.name} at least {m.min_tp_degree}" for m in (target, draft) if m.min_tp_degree is not None]
    reasons.append(
        f"{instance.name} allows tp_degree {allowed}" + (f": {', '.join(least)} by itself." if least else ".")
    )
    reasons.append("The models share their cores, and only an identical set can be shared: one tp_degree for both.")
    spread = f"{per_core.total / GB:.1f} of {per_core.capacity / GB:.1f} GB on each"
    if not recommended:
        reasons.append(f"Both fit on {degree} cores together ({spread}).")
    elif degree == target.min_tp_degree and degree == instance.num_cores:
        reasons.append(f"{target.name} needs all {degree} cores, so {draft.name} takes {degree} too ({spread}).")
    elif degree == instance.num_cores:
        reasons.append(
            f"Both fit across all {degree} cores ({spread}), and a higher tp_degree uses more memory bandwidth: "
            f"{degree} for both is faster than less."
        )
    else:
        reasons.append(
            f"Both fit on {degree} cores together ({spread}): the highest undoubted degree that leaves no core "
            "without an attention head."
            if degree not in instance.doubtful
            else f"Both fit on {degree} cores together ({spread}), and on no smaller set."
        )
    return reasons


def _load_order(sizing: Sizing, tp_degree: int) -> tuple[str, ...]:
    nxd = sizing.library == NXD_INFERENCE
    package = "neuronx_distributed_inference" if nxd else "transformers_neuronx"
    enabled = "its one window named in its configuration" if nxd else "its speculative decoder enabled"
    return (
        f"Set NEURON_RT_NUM_CORES={tp_degree} before {package} is imported.",
        f"Load the draft {sizing.draft.name} with tp_degree {tp_degree}: it compiles soonest, so a fault shows early.",
        f"Load the target {sizing.target.name} with tp_degree {tp_degree}, {enabled} before it compiles; "
        "it takes exactly the cores the draft initialised.",
        "To change tp_degree, restart the process: a partly overlapping set of cores ends it.",
    )


def _gb(size: int) -> float:
    return round(size / GB, 2)
