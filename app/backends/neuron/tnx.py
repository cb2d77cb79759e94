"""transformers-neuronx 0.13: how it is loaded, and its two primitives with explicit cache ids."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from collections.abc import Sequence as Ids
from pathlib import Path
from typing import Any

from app.backends.neuron.artifacts import writing
from app.backends.neuron.machine import claim_cores
from app.backends.neuron.settings import Settings
from app.neuron.catalogue import TRANSFORMERS_NEURONX, ModelConfig


class TransformersNeuronx:
    """See `app.backends.neuron.library.Library`."""

    name = TRANSFORMERS_NEURONX
    package = "transformers_neuronx"
    packages = ("transformers_neuronx", "torch_neuronx")
    transformers = ((4, 43, 3), (4, 48), "4.47.1")
    requirements = "app/backends/requirements-neuron.txt"

    def compiled(self, windows: tuple[int, ...]) -> tuple[int, ...]:
        return windows

    def prefill(self, n_positions: int) -> int:
        """Half of the context; the library itself continues a longer prompt, token by token."""
        return max(2, n_positions // 2)

    def load(
        self, directory: Path, config: ModelConfig, settings: Settings, artifacts: Path | None, *, known: bool
    ) -> TransformersNeuronxPrograms:
        library = importlib.import_module(self.package)
        kind = library.LlamaForSampling if config.family == "llama" else library.NeuronAutoModelForCausalLM
        # One bucket each: every window costs one more compiled program for every bucket.
        module = kind.from_pretrained(
            str(directory),
            n_positions=[settings.n_positions],
            batch_size=1,
            amp=settings.dtype,
            tp_degree=settings.tp_degree,
            context_length_estimate=[settings.prefill],
        )
        if settings.compiled:
            module.enable_speculative_decoder(list(settings.compiled))
        if artifacts is not None and known:
            module.load(str(artifacts))
        claim_cores(settings.tp_degree)
        module.to_neuron()
        if artifacts is not None and not known:
            with writing(artifacts, directory, settings):
                module.save(str(artifacts))
        return TransformersNeuronxPrograms(module, settings.n_positions)


class TransformersNeuronxPrograms:
    """See `app.backends.neuron.model.Programs`."""

    def __init__(self, module: Any, n_positions: int) -> None:
        self.module = module
        self.prefill_limit = n_positions

    def prefill(self, token_ids: Ids[int]) -> Any:
        return self._call(self.module.forward, token_ids, 0)

    def step(self, token_id: int, position: int) -> Any:
        return self._call(self.module.forward, [token_id], position)

    def score(self, token_ids: Ids[int], position: int) -> Any:
        return self._call(self.module.speculative_forward, token_ids, position, speculation_length=len(token_ids))

    def _call(self, function: Callable[..., Any], token_ids: Ids[int], position: int, **options: int) -> Any:
        import torch

        input_ids = torch.tensor([list(token_ids)], dtype=torch.int64)
        cache_ids = torch.arange(position, position + len(token_ids), dtype=torch.int32)
        with torch.inference_mode():
            return function(input_ids, cache_ids=cache_ids, **options)
