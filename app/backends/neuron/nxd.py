"""NxD Inference (neuronx-distributed-inference): how it is loaded, and its one call as the three passes of a model.

Which program a call reaches, the library decides by its shape and positions: positions that begin at 0 are a prefill,
as many tokens as the one window it was compiled for are a window, anything else is a step.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.backends.neuron.artifacts import writing
from app.backends.neuron.machine import claim_cores
from app.backends.neuron.settings import Settings
from app.neuron.catalogue import NXD_INFERENCE, ModelConfig

WORKPLACE = "BASE_COMPILE_WORK_DIR"
TORCH_DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


class NxdInference:
    """See `app.backends.neuron.library.Library`."""

    name = NXD_INFERENCE
    package = "neuronx_distributed_inference"
    packages = ("neuronx_distributed_inference", "torch_neuronx")
    transformers = ((4, 57), (4, 58), "4.57.6")
    requirements = "app/backends/requirements-neuron-nxd.txt"

    def compiled(self, windows: tuple[int, ...]) -> tuple[int, ...]:
        """One window a model: the largest, which the smaller ones are padded to."""
        return windows[-1:]

    def prefill(self, n_positions: int) -> int:
        """The whole context: the library refuses a longer prompt."""
        return n_positions

    def load(
        self, directory: Path, config: ModelConfig, settings: Settings, artifacts: Path | None, *, known: bool
    ) -> NxdInferencePrograms:
        import torch

        models = importlib.import_module(f"{self.package}.models.config")
        llama = importlib.import_module(f"{self.package}.models.llama.modeling_llama")
        adapter = importlib.import_module(f"{self.package}.utils.hf_adapter")
        window = max(settings.compiled, default=0)
        neuron_config = models.NeuronConfig(
            tp_degree=settings.tp_degree,
            batch_size=1,
            seq_len=settings.n_positions,
            max_context_length=settings.prefill,
            torch_dtype=getattr(torch, TORCH_DTYPES[settings.dtype]),
            speculation_length=window,
            on_device_sampling_config=None,  # logits are wanted, not ids
            enable_bucketing=False,  # one program of each kind
        )
        load_config = adapter.load_pretrained_config(str(directory))
        kind = _with_steps(llama.NeuronLlamaForCausalLM) if window else llama.NeuronLlamaForCausalLM
        with ExitStack() as stack:
            stack.enter_context(_own_workplace())
            module = kind(str(directory), llama.LlamaInferenceConfig(neuron_config, load_config=load_config))
            folder = artifacts or Path(stack.enter_context(TemporaryDirectory(prefix="nxd-programs-")))
            if not known:
                if artifacts is not None:
                    with writing(artifacts, directory, settings):
                        module.compile(str(folder))
                else:
                    module.compile(str(folder))
            claim_cores(settings.tp_degree)
            module.load(str(folder))
        return NxdInferencePrograms(module, settings.prefill)


@contextmanager
def _own_workplace() -> Iterator[None]:
    """An empty folder for the compiler, unless the person named one: the library's own keeps what another model left
    there, and takes the layout of its weights from it."""
    if os.environ.get(WORKPLACE):
        yield
        return
    with TemporaryDirectory(prefix="nxd-workplace-") as folder:
        os.environ[WORKPLACE] = folder
        try:
            yield
        finally:
            del os.environ[WORKPLACE]


def _with_steps(base: Any) -> Any:
    """The class, with a program for single tokens beside its window: the stock one has a window only, so that whatever
    is no prefill would have to be padded to it, and neither the target-only arm nor the context's end could be run.

    The window alone decides how the weights lie (`enable_wlt_optimization`): the builder takes the layout asked for by
    the first such program together with the answer to the last one.
    """

    class WithSteps(base):  # type: ignore[misc]
        def enable_speculation(self, *args: Any, **options: Any) -> None:
            self.enable_token_generation(enable_wlt_optimization=False)
            super().enable_speculation(*args, **options)

    return WithSteps


class NxdInferencePrograms:
    """See `app.backends.neuron.model.Programs`."""

    def __init__(self, module: Any, prefill_limit: int) -> None:
        self.module = module
        self.prefill_limit = prefill_limit

    def prefill(self, token_ids: Ids[int]) -> Any:
        # Padded by us: the library pads ids with the model's padding id, which may be none of its vocabulary, and
        # positions with ones, and answers for the first of the highest, which after one token alone is the padding.
        padding = [0] * (self.prefill_limit - len(token_ids))
        return self._call([*token_ids, *padding], [*range(len(token_ids)), *padding], len(token_ids))

    def step(self, token_id: int, position: int) -> Any:
        return self._call([token_id], [position], position)

    def score(self, token_ids: Ids[int], position: int) -> Any:
        return self._call(token_ids, range(position, position + len(token_ids)), position)

    def _call(self, token_ids: Ids[int], positions: Ids[int], attended: int) -> Any:
        """attended: slots before the tokens of a step or window (those a mask left to the library gets wrong); the
        tokens themselves in a prefill."""
        import torch

        with torch.no_grad():
            answer = self.module(
                input_ids=torch.tensor([list(token_ids)], dtype=torch.int32),
                attention_mask=torch.ones((1, attended), dtype=torch.int32),
                position_ids=torch.tensor([list(positions)], dtype=torch.int32),
                seq_ids=torch.tensor([0], dtype=torch.int32),
            )
        return answer.logits
