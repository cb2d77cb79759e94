"""A fake `neuronx_distributed_inference` that honours its contract strictly: the device is absent here, the rules are
not.

Which program a call reaches is decided as the library does, by its positions and its length; a mask that does not fit,
a window that begins at 0, a program that was not built, a prefill as long as a window, two programs that both ask how
the weights should lie: what the library answers wrong without a word, so does this, and where it raises, so does this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.neuron_device import DeviceModel, Runtime, put_in_place, read_weights

KNOWN_SETTINGS = {
    "tp_degree",
    "batch_size",
    "seq_len",
    "max_context_length",
    "torch_dtype",
    "speculation_length",
    "on_device_sampling_config",
    "enable_bucketing",
}
COMPILED_FILE = "model.pt"
PREFILL, WINDOW, STEP = "context_encoding_model", "speculation_model", "token_generation_model"


class NeuronConfig:
    def __init__(self, **settings: Any) -> None:
        assert set(settings) <= KNOWN_SETTINGS, set(settings) - KNOWN_SETTINGS
        assert settings["batch_size"] == 1
        assert settings["on_device_sampling_config"] is None, "ids instead of logits"
        assert not settings.get("enable_bucketing"), "the contract does not cover buckets"
        assert isinstance(settings["torch_dtype"], torch.dtype)
        self.tp_degree: int = settings["tp_degree"]
        self.seq_len: int = settings["seq_len"]
        self.max_context_length: int = settings.get("max_context_length", self.seq_len)
        self.torch_dtype: torch.dtype = settings["torch_dtype"]
        self.speculation_length: int = settings.get("speculation_length", 0)
        assert self.max_context_length <= self.seq_len, "max_context_length cannot be more than max_length"


def load_pretrained_config(model_path_or_name: str) -> Callable[[Any], None]:
    def load_config(config: Any) -> None:
        values = json.loads((Path(model_path_or_name) / "config.json").read_text())
        defaults = {"pad_token_id": None, "hidden_act": "silu", "rope_theta": 10000.0}
        config.__dict__.update(defaults | values)

    return load_config


class LlamaInferenceConfig:
    pad_token_id: int | None

    def __init__(self, neuron_config: NeuronConfig, *, load_config: Callable[[Any], None]) -> None:
        self.neuron_config = neuron_config
        load_config(self)
        for name in ("hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size", "rms_norm_eps"):
            assert hasattr(self, name), f"Config must define {name}"


@dataclass
class Program:
    """A submodel: its tag, and whether it decides how the weights lie."""

    tag: str
    decides_layout: bool


class NeuronLlamaForCausalLM:
    runtime: Runtime

    def __init__(self, model_path: str, config: LlamaInferenceConfig) -> None:
        self.directory, self.config, self.neuron_config = Path(model_path), config, config.neuron_config
        self.models: list[Program] = []
        self.loaded = False
        self.device_model = DeviceModel(vars(config), self.neuron_config.seq_len)
        self.models.append(Program(PREFILL, False))
        if self.neuron_config.speculation_length > 0:
            self.enable_speculation()
        else:
            self.enable_token_generation()

    # what the tests look at, as on the other fake
    @property
    def fake(self) -> dict[str, Any]:
        return self.device_model.fake

    @property
    def calls(self) -> list[tuple[str, int, int]]:
        return self.device_model.calls

    @property
    def tp_degree(self) -> int:
        return self.neuron_config.tp_degree

    # --- building and loading ---

    def enable_token_generation(self, enable_wlt_optimization: bool = True) -> None:
        self.models.append(Program(STEP, enable_wlt_optimization))

    def enable_speculation(self, enable_wlt_optimization: bool = True) -> None:
        self.models.append(Program(WINDOW, enable_wlt_optimization))

    def _signature(self) -> dict[str, Any]:
        settings = {name: str(value) for name, value in vars(self.neuron_config).items()}
        return {"settings": settings, "programs": [program.tag for program in self.models]}

    def compile(self, compiled_model_path: str) -> None:
        assert sum(program.decides_layout for program in self.models) == 1, "the weights lie as two programs want them"
        workplace = Path(os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/"))
        workplace.mkdir(parents=True, exist_ok=True)
        assert not list(workplace.iterdir()), "another model's layout would be taken from here"
        (workplace / "wrapped_neff.hlo").touch()
        self.runtime.programs_compiled += len(self.models)
        folder = Path(compiled_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "neuron_config.json").write_text("{}")
        (folder / COMPILED_FILE).write_text(json.dumps(self._signature()))

    def load(self, compiled_model_path: str) -> None:
        compiled = json.loads((Path(compiled_model_path) / COMPILED_FILE).read_text())
        assert compiled == self._signature(), "programs of other settings"
        self.runtime.initialise(self.neuron_config.tp_degree)
        read_weights(self.directory)
        self.runtime.loads.append(self.directory.name)
        self.loaded = True

    # --- the one call ---

    def __call__(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor,
        seq_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> SimpleNamespace:
        if not self.loaded:
            raise RuntimeError("Forward called before load. Run load() or load_state_dict() making calling forward")
        assert position_ids is not None
        assert seq_ids is not None
        assert seq_ids.tolist() == [0]
        for tensor in (input_ids, position_ids, seq_ids):
            assert tensor.dtype == torch.int32, tensor.dtype
        count = input_ids.shape[1]
        assert input_ids.shape == position_ids.shape == (1, count)
        tokens, positions = input_ids[0].tolist(), position_ids[0].tolist()
        assert min(tokens) >= 0
        assert max(tokens) < self.device_model.vocab_size
        # Left to the library, a mask says of a window that it attends to as many slots as it has tokens.
        attended = (count if count > 1 else positions[0]) if attention_mask is None else attention_mask.shape[1]
        if min(positions) == 0:
            rows = self._prefill(tokens, positions, attended)
        elif count == self.neuron_config.speculation_length:
            rows = self._window(tokens, positions, attended)
        else:
            rows = self._step(tokens, positions, attended)
        return SimpleNamespace(logits=rows.unsqueeze(0))

    def _prefill(self, tokens: list[int], positions: list[int], attended: int) -> torch.Tensor:
        bucket, device = self.neuron_config.max_context_length, self.device_model
        if len(tokens) > bucket or attended > bucket:
            raise ValueError(
                f"Inputs supplied ({len(tokens)} tokens) are longer than max_context_length ({bucket} tokens)."
            )
        assert attended == len(tokens) or len(tokens) == bucket
        assert bucket != self.neuron_config.speculation_length, "taken for a window"
        padding = bucket - len(tokens)
        pad_token_id = self.config.pad_token_id or 0
        if padding and not 0 <= pad_token_id < device.vocab_size:
            raise IndexError("index out of range in self")
        device.write([*tokens, *[pad_token_id] * padding], 0)
        padded = [*positions, *[1] * padding]
        answered = padded.index(max(padded))  # the first of the highest
        device.calls.append(("prefill", 0, max(positions) + 1))
        return device.answer(PREFILL, [device.row(device.slots[: answered + 1].tolist())])

    def _window(self, tokens: list[int], positions: list[int], attended: int) -> torch.Tensor:
        device, window = self.device_model, len(tokens)
        self._check_bucket(attended + window, WINDOW)
        before = device.slots[:attended].tolist()
        rows = [device.row([*before, *tokens[: i + 1]]) for i in range(window)]
        self._write(tokens, positions)
        device.calls.append(("window", positions[0], window))
        return device.answer(WINDOW, rows)

    def _step(self, tokens: list[int], positions: list[int], attended: int) -> torch.Tensor:
        if STEP not in [program.tag for program in self.models]:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{STEP}'")
        if len(tokens) != 1:
            raise RuntimeError(f"shape '[1, 1]' is invalid for input of size {len(tokens)}")
        self._check_bucket(attended, STEP)
        device = self.device_model
        row = device.row([*device.slots[:attended].tolist(), *tokens])
        self._write(tokens, positions)
        device.calls.append(("step", positions[0], 1))
        return device.answer(STEP, [row])

    def _check_bucket(self, needed: int, tag: str) -> None:
        if needed > self.neuron_config.seq_len:
            raise ValueError(f"Input len {needed} exceeds largest bucket ({self.neuron_config.seq_len}) for {tag}")

    def _write(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        for token, position in zip(tokens, positions, strict=True):
            if position >= self.neuron_config.seq_len:
                raise RuntimeError(
                    f"index {position} is out of bounds for dimension 2 with size {self.neuron_config.seq_len}"
                )
            self.device_model.write([token], position)


def install(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Make `import neuronx_distributed_inference` find the fake; the runtime that its models share is returned."""
    runtime = Runtime()
    monkeypatch.setattr(NeuronLlamaForCausalLM, "runtime", runtime, raising=False)
    package = "neuronx_distributed_inference"
    put_in_place(
        monkeypatch,
        {
            package: {},
            f"{package}.models": {},
            f"{package}.models.config": {"NeuronConfig": NeuronConfig},
            f"{package}.models.llama": {},
            f"{package}.models.llama.modeling_llama": {
                "LlamaInferenceConfig": LlamaInferenceConfig,
                "NeuronLlamaForCausalLM": NeuronLlamaForCausalLM,
            },
            f"{package}.utils": {},
            f"{package}.utils.hf_adapter": {"load_pretrained_config": load_pretrained_config},
            "torch_neuronx": {},
        },
    )
    return runtime
