"""A pair on an instance, weighed: what its cores would hold at a degree, which degree is best, what speaks against
it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.neuron.catalogue import (
    INSTANCES,
    NXD_INFERENCE,
    OTHER_GENERATIONS,
    TRANSFORMERS_NEURONX,
    Instance,
    ModelConfig,
)
from app.neuron.memory import GB, CoreMemory, core_memory

TIGHT = 0.92  # of a core's memory: beyond this the estimate cannot promise a fit
PADDED_IDS = 1024  # padding a vocabulary adds a few hundred ids; more means another tokenizer


@dataclass(frozen=True, slots=True)
class Sizing:
    """What is to be sized. dtype: a precision of `DTYPE_BYTES`; library: one of `LIBRARIES`."""

    instance: Instance
    target: ModelConfig
    draft: ModelConfig
    dtype: str
    n_positions: int
    library: str

    def memory(self, tp_degree: int) -> CoreMemory:
        """What each of `tp_degree` shared cores would hold."""
        return core_memory(
            self.target,
            self.draft,
            self.dtype,
            self.n_positions,
            tp_degree,
            library=self.library,
            capacity=self.instance.core_bytes,
        )

    def recommended(self) -> int | None:
        """The highest degree that fits, as bandwidth grows with it: of the undoubted ones, and with a head for each
        core (a core without one only adds communication), where there is a choice."""
        if self.library not in self.instance.libraries:
            return None
        fitting = [degree for degree in self.instance.all_degrees if self.memory(degree).fits]
        heads = min(self.target.num_heads, self.draft.num_heads)
        return max(
            fitting,
            key=lambda degree: (
                degree not in self.instance.doubtful,
                degree <= heads,
                degree if degree <= heads else -degree,
            ),
            default=None,
        )

    def refusals_of_the_pair(self) -> list[str]:
        """Why these two models cannot work, wherever they are put."""
        target, draft = self.target, self.draft
        refusals = []
        if abs(target.vocab_size - draft.vocab_size) > PADDED_IDS:
            refusals.append(
                f"{target.name} has {target.vocab_size} token ids and {draft.name} {draft.vocab_size}, so "
                "they cannot share "
                "a tokenizer; choose two models of one family."
            )
        if self.library == TRANSFORMERS_NEURONX and target.family != "llama":
            refusals.append(
                f"transformers-neuronx cannot score windows with {target.name} ({target.family}); choose a "
                "Llama target."
            )
        for model in dict.fromkeys((target, draft)):
            if self.library == NXD_INFERENCE and model.family != "llama":
                refusals.append(
                    f"NxD Inference runs Llama models here, and {model.name} is a {model.family}; choose another."
                )
            if self.library == TRANSFORMERS_NEURONX and model.head_dim * model.num_heads != model.hidden_size:
                refusals.append(
                    f"{model.name} has heads of {model.head_dim} where transformers-neuronx takes "
                    f"{model.hidden_size / model.num_heads:g} for granted; choose another model, or "
                    f"--neuron-library {NXD_INFERENCE}."
                )
        return refusals

    def refusal_of_the_instance(self) -> str | None:
        """Why the library cannot run there, whatever the models."""
        if self.library in self.instance.libraries:
            return None
        name = self.instance.name
        if not self.instance.libraries:
            generation = next(each for each in OTHER_GENERATIONS if name.startswith(each))
            return f"{name} cannot be planned for: {OTHER_GENERATIONS[generation]}."
        return (
            f"{self.library} does not support {name}; choose a Trn1 or Inf2 instance, or "
            f"--neuron-library {self.instance.libraries[0]}."
        )

    def refusals_of_degrees(self, target_tp: int, draft_tp: int) -> list[str]:
        instance = self.instance
        allowed = ", ".join(map(str, instance.all_degrees))
        refusals = []
        for degree in dict.fromkeys((target_tp, draft_tp)):
            if degree > instance.num_cores:
                refusals.append(
                    f"tp_degree {degree} needs {degree} NeuronCores and {instance.name} has {instance.num_cores}; "
                    f"use one of {allowed}."
                )
            elif degree not in instance.all_degrees:
                refusals.append(
                    f"The topology of {instance.name} does not allow tp_degree {degree}; use one of {allowed}."
                )
        if target_tp != draft_tp:
            refusals.append(
                f"The target on {target_tp} cores and the draft on {draft_tp} overlap in part, and the "
                "Neuron runtime dies "
                "of that (`nec_comm is already init'd`); give both the same tp_degree."
            )
        if not refusals and not self.memory(target_tp).fits:
            refusals.append(self.too_big(target_tp))
        return refusals

    def too_big(self, tp_degree: int) -> str:
        """That the pair does not fit at this degree, and what would."""
        elsewhere = [
            other.name
            for other in INSTANCES.values()
            if other.name != self.instance.name and replace(self, instance=other).recommended() is not None
        ]
        remedies = [f"an instance that holds it ({', '.join(elsewhere)})"] if elsewhere else []
        better = self.recommended()
        if better is not None:
            remedies = [f"tp_degree {better}"]
        if self.dtype == "f32":
            remedies.append("bf16")
        remedies += ["fewer positions", "smaller models"]
        return (
            f"{self.target.name} and {self.draft.name} in {self.dtype} would put about "
            f"{self.memory(tp_degree).total / GB:.1f} GB on each of {tp_degree} cores of "
            f"{self.instance.name}, which have "
            f"{self.instance.core_bytes / GB:.1f} GB; choose {', '.join(remedies[:-1])} or {remedies[-1]}."
        )

    def warnings(self) -> list[str]:
        """What to look out for, whatever the degree."""
        warnings = [
            f"{model.name} was trained for {model.max_positions} positions; beyond them its text degrades."
            for model in dict.fromkeys((self.target, self.draft))
            if self.n_positions > model.max_positions
        ]
        if self.draft.num_parameters >= self.target.num_parameters:
            warnings.append(
                f"The draft {self.draft.name} is no smaller than the target {self.target.name}: it cannot save time."
            )
        if self.library == NXD_INFERENCE:
            warnings.append(
                "Working memory is estimated from figures of transformers-neuronx; for NxD Inference none "
                "are published."
            )
        if self.instance.inferred:
            warnings.append(
                f"The cores of {self.instance.name} are inferred from those of a larger instance; see neuron-ls there."
            )
        return warnings

    def warnings_of_degree(self, tp_degree: int) -> list[str]:
        core, warnings = self.memory(tp_degree), []
        if TIGHT * core.capacity < core.total < core.capacity:
            warnings.append(
                f"{core.total / GB:.1f} of {core.capacity / GB:.1f} GB a core is tight, and working memory "
                "is an estimate; "
                "watch neuron-top while it loads."
            )
        if tp_degree in self.instance.doubtful:
            warnings.append(
                f"AWS's documents disagree on whether {self.instance.name} allows tp_degree {tp_degree}; try it before "
                "relying on it."
            )
        return warnings
