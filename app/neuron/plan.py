"""Neuron sizing: which instance holds a pair, at which tensor parallel degree, loaded in which order. Pure; stdlib only.

Nothing here touches hardware. Two figures are given, and they are not the same thing:

* `cores_needed`, the published rule of thumb: a model's size as neuron-top shows it / 16 GB a core;
* `CoreMemory`, what one core holds once both models are spread over it at the planned degree, against its 16 GiB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from app.errors import RequestError
from app.neuron.catalogue import CORE_BYTES, INSTANCES, Instance, ModelConfig, instance_named, model_config
from app.neuron.memory import DTYPE_BYTES, GB, WORKING_BYTES_PER_CORE, CoreMemory, core_memory, kv_bytes

CORE_GB = 16  # the rule of thumb divides by this
NEURON_TOP_CORES = 32  # the published sizes were read with a model spread over this many cores
TIGHT = 0.92  # of a core's memory: beyond this the estimate cannot promise a fit


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
        """What must be set before transformers_neuronx is imported."""
        return {"NEURON_RT_NUM_CORES": str(self.tp_degree)} if self.ok else {}

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types; gigabytes are 10^9 bytes."""
        core = self.per_core
        return {
            "ok": self.ok,
            "instance": self.instance.name,
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
                "capacity_gb": _gb(CORE_BYTES),
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
) -> Plan:
    """Size a pair on an instance; with degrees given, judge those instead of recommending.

    target_tp alone is taken for both models. What cannot work is told in `Plan.refusals`; RequestError and PairError
    are for values that mean nothing (an unknown instance, model or precision).
    """
    instance = instance_named(instance) if isinstance(instance, str) else instance
    target = model_config(target) if isinstance(target, str) else target
    draft = model_config(draft) if isinstance(draft, str) else draft
    if dtype not in DTYPE_BYTES:
        raise RequestError(f"There is no precision {dtype!r} on Neuron; use bf16, f16 or f32.")
    if n_positions < 2:
        raise RequestError(f"A sequence of {n_positions} positions holds no text; give --n-positions 2 or more.")

    warnings = _pair_warnings(target, draft, n_positions)
    refusals = _pair_refusals(target, draft)
    reasons: list[str] = []
    asked_target = target_tp if target_tp is not None else draft_tp
    asked_draft = draft_tp if draft_tp is not None else target_tp
    chosen_target, chosen_draft = asked_target, asked_draft

    if instance.name.startswith("trn2"):
        refusals.append(
            f"transformers-neuronx does not support {instance.name}: Trainium2 needs another library; "
            "choose a Trn1 or Inf2 instance."
        )
        chosen_target = chosen_draft = None
    elif asked_target is not None and asked_draft is not None:
        wrong = _degree_refusals(instance, asked_target, asked_draft)
        refusals += wrong
        if not wrong and not core_memory(target, draft, dtype, n_positions, asked_target).fits:
            refusals.append(_too_big(instance, target, draft, dtype, n_positions, asked_target))
    else:
        chosen_target = chosen_draft = _recommend(instance, target, draft, dtype, n_positions)
        if chosen_target is None:
            refusals.append(_too_big(instance, target, draft, dtype, n_positions, instance.all_degrees[-1]))

    target_plan = _model_plan(instance, target, dtype, n_positions, chosen_target)
    draft_plan = _model_plan(instance, draft, dtype, n_positions, chosen_draft)
    shared = chosen_target if chosen_target == chosen_draft else None
    per_core = None if not shared or shared < 1 else core_memory(target, draft, dtype, n_positions, shared)
    if not refusals and per_core is not None and per_core.total > TIGHT * CORE_BYTES:
        warnings.append(
            f"{per_core.total / GB:.1f} of {CORE_BYTES / GB:.1f} GB a core is tight, and working memory is an estimate; "
            "watch neuron-top while it loads."
        )
    if shared in instance.doubtful:
        warnings.append(
            f"AWS's documents disagree on whether {instance.name} allows tp_degree {shared}; try it before relying on it."
        )
    if not refusals and shared is not None and per_core is not None:
        reasons = _reasons(instance, target_plan, draft_plan, dtype, per_core, recommended=asked_target is None)
    return Plan(
        instance=instance,
        dtype=dtype,
        n_positions=n_positions,
        target=target_plan,
        draft=draft_plan,
        per_core=per_core,
        reasons=tuple(reasons),
        warnings=tuple(warnings),
        refusals=tuple(refusals),
        load_order=() if refusals or shared is None else _load_order(target.name, draft.name, shared),
    )


# --- the parts of a plan ---


def _model_plan(
    instance: Instance, model: ModelConfig, dtype: str, n_positions: int, tp_degree: int | None
) -> ModelPlan:
    weights = model.num_parameters * DTYPE_BYTES[dtype]
    kv = kv_bytes(model, dtype, n_positions)
    # The rule of thumb calls a model's size what neuron-top shows with it on every core of a large instance; it is the
    # same for all of those. A smaller instance cannot spread it further than its own cores.
    spread = instance.num_cores if 0 < instance.num_cores <= 12 else NEURON_TOP_CORES
    memory = weights + kv + WORKING_BYTES_PER_CORE * spread
    cores = memory / (CORE_GB * GB)
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


def _recommend(instance: Instance, target: ModelConfig, draft: ModelConfig, dtype: str, n_positions: int) -> int | None:
    """The highest degree that fits, as bandwidth grows with it: of the undoubted ones, and with a head for each core
    (a core without one only adds communication), where there is a choice."""
    fitting = [degree for degree in instance.all_degrees if core_memory(target, draft, dtype, n_positions, degree).fits]
    heads = min(target.num_heads, draft.num_heads)
    return max(
        fitting,
        key=lambda degree: (
            degree not in instance.doubtful,
            degree <= heads,
            degree if degree <= heads else -degree,
        ),
        default=None,
    )


def _degree_refusals(instance: Instance, target_tp: int, draft_tp: int) -> list[str]:
    allowed = ", ".join(map(str, instance.all_degrees))
    refusals = []
    for degree in dict.fromkeys((target_tp, draft_tp)):
        if degree > instance.num_cores:
            refusals.append(
                f"tp_degree {degree} needs {degree} NeuronCores and {instance.name} has {instance.num_cores}; "
                f"use one of {allowed}."
            )
        elif degree not in instance.all_degrees:
            refusals.append(f"The topology of {instance.name} does not allow tp_degree {degree}; use one of {allowed}.")
    if target_tp != draft_tp:
        refusals.append(
            f"The target on {target_tp} cores and the draft on {draft_tp} overlap in part, and the Neuron runtime dies "
            "of that (`nec_comm is already init'd`); give both the same tp_degree."
        )
    return refusals


def _pair_refusals(target: ModelConfig, draft: ModelConfig) -> list[str]:
    refusals = []
    # Padding a vocabulary adds a few hundred ids at most; a larger difference means another tokenizer.
    if abs(target.vocab_size - draft.vocab_size) > 1024:
        refusals.append(
            f"{target.name} has {target.vocab_size} token ids and {draft.name} {draft.vocab_size}, so they cannot share "
            "a tokenizer; choose two models of one family."
        )
    return refusals


def _pair_warnings(target: ModelConfig, draft: ModelConfig, n_positions: int) -> list[str]:
    warnings = [
        f"{model.name} was trained for {model.max_positions} positions; beyond them its text degrades."
        for model in dict.fromkeys((target, draft))
        if n_positions > model.max_positions
    ]
    if draft.num_parameters >= target.num_parameters:
        warnings.append(f"The draft {draft.name} is no smaller than the target {target.name}: it cannot save time.")
    return warnings


def _too_big(
    instance: Instance, target: ModelConfig, draft: ModelConfig, dtype: str, n_positions: int, tp_degree: int
) -> str:
    need = core_memory(target, draft, dtype, n_positions, tp_degree).total
    elsewhere = [
        other.name
        for other in INSTANCES.values()
        if other.name != instance.name and _recommend(other, target, draft, dtype, n_positions) is not None
    ]
    remedies = [f"an instance that holds it ({', '.join(elsewhere)})"] if elsewhere else []
    if tp_degree < instance.all_degrees[-1]:
        better = _recommend(instance, target, draft, dtype, n_positions)
        remedies = [f"tp_degree {better}"] if better is not None else remedies
    if dtype == "f32":
        remedies.append("bf16")
    remedies += ["fewer positions", "smaller models"]
    return (
        f"{target.name} and {draft.name} in {dtype} would put about {need / GB:.1f} GB on each of {tp_degree} cores of "
        f"{instance.name}, which have {CORE_BYTES / GB:.1f} GB; choose {', '.join(remedies[:-1])} or {remedies[-1]}."
    )


def _reasons(
    instance: Instance, target: ModelPlan, draft: ModelPlan, dtype: str, per_core: CoreMemory, *, recommended: bool
) -> list[str]:
    degree = target.tp_degree
    reasons = [
        f"In {dtype}, {model.name} takes about {model.memory_bytes / GB:.0f} GB: {model.cores_phrase} of {CORE_GB} GB."
        for model in (target, draft)
    ]
    allowed = ", ".join(map(str, instance.all_degrees))
    least = [f"{m.name} at least {m.min_tp_degree}" for m in (target, draft) if m.min_tp_degree is not None]
    reasons.append(
        f"{instance.name} allows tp_degree {allowed}" + (f": {', '.join(least)} by itself." if least else ".")
    )
    reasons.append("The models share their cores, and only an identical set can be shared: one tp_degree for both.")
    spread = f"{per_core.total / GB:.1f} of {CORE_BYTES / GB:.1f} GB on each"
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


def _load_order(target: str, draft: str, tp_degree: int) -> tuple[str, ...]:
    return (
        f"Set NEURON_RT_NUM_CORES={tp_degree} before transformers_neuronx is imported.",
        f"Load the draft {draft} with tp_degree {tp_degree}: it compiles soonest, so a fault shows early.",
        f"Load the target {target} with tp_degree {tp_degree}, its speculative decoder enabled before it compiles; "
        "it takes exactly the cores the draft initialised.",
        "To change tp_degree, restart the process: a partly overlapping set of cores ends it.",
    )


def _gb(size: int) -> float:
    return round(size / GB, 2)
