"""What the fakes of both Neuron libraries share: the device's memory, its cores, and checkpoints for them.

Each KV slot holds the token written there, padding included; a row of logits is a function of every slot it attends to,
so a stale, missing or misplaced slot changes the output, or raises where nothing was ever written. `expected_logits` is
that function on a clean context: the oracle. Output buffers are reused: a caller that keeps one without copying reads
NaN.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.backends.neuron.weights import expected_tensors
from app.neuron.catalogue import read_config

NEVER_WRITTEN = -1


def expected_logits(fake: dict[str, Any], vocab_size: int, context: Sequence[int]) -> NDArray[np.float32]:
    """The row after `context`, float32 [V].

    fake: `table` (logits, whatever the context), or `seed` and `noise`: a base that all models share plus a part of
    this one's own; `banned`: an id that is never said.
    """
    if "table" in fake:
        return np.array(fake["table"], dtype=np.float32)
    digest = hashlib.sha256(np.asarray(context, np.int64).tobytes()).digest()
    base = np.random.default_rng(list(digest[:16])).normal(size=vocab_size)
    own = np.random.default_rng([fake.get("seed", 0), *digest[:16]]).normal(size=vocab_size)
    row = 3 * base + fake.get("noise", 0.0) * own
    if "banned" in fake:
        row[fake["banned"]] = -100
    return np.asarray(row, np.float32)


class Runtime:
    """What the process shares: the cores first initialised, and how often anything was compiled."""

    def __init__(self) -> None:
        self.cores: int | None = None
        self.programs_compiled = 0
        self.loads: list[str] = []

    def initialise(self, tp_degree: int) -> None:
        visible = os.environ.get("NEURON_RT_VISIBLE_CORES")
        if visible:
            first, _, last = visible.partition("-")
            available = int(last or first) - int(first) + 1
        else:
            available = int(os.environ["NEURON_RT_NUM_CORES"])  # unset: the fake insists on it
        if tp_degree > available:
            raise RuntimeError(f"nrt_init: {tp_degree} cores asked for, {available} visible")
        if self.cores is not None and self.cores != tp_degree:
            raise RuntimeError("nrt_load_collectives - global nec_comm is already init'd")
        self.cores = tp_degree


class DeviceModel:
    """The slots of one model's KV cache and what its programs answer."""

    def __init__(self, config: dict[str, Any], n_positions: int) -> None:
        self.vocab_size = int(config["vocab_size"])
        self.fake: dict[str, Any] = config.get("fake", {})
        self.n_positions = n_positions
        self.slots = np.full(n_positions, NEVER_WRITTEN, np.int64)
        self.outputs: dict[str, torch.Tensor] = {}
        self.calls: list[tuple[str, int, int]] = []  # (kind, position, tokens): what reached the device

    def write(self, tokens: Sequence[int], position: int) -> None:
        self.slots[position : position + len(tokens)] = tokens

    def row(self, context: Sequence[int]) -> NDArray[np.float32]:
        """[V], from the tokens attended to."""
        assert NEVER_WRITTEN not in context, "a slot that was never written is attended to"
        return expected_logits(self.fake, self.vocab_size, context)

    def answer(self, program: str, rows: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        """[n, V] in the program's own buffer; what the others held is gone."""
        for buffer in self.outputs.values():
            buffer.fill_(float("nan"))
        values = torch.from_numpy(np.stack(rows))
        with torch.inference_mode(False):
            self.outputs.setdefault(program, torch.empty(values.shape))
        return self.outputs[program].copy_(values)


def read_weights(directory: Path) -> None:
    """Read the weights as the libraries do, in the middle of loading: raises what they raise for an absent shard or
    tensor."""
    from safetensors import safe_open

    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if single.is_file():
        with safe_open(single, framework="numpy") as file:
            where = dict.fromkeys(file.keys(), single.name)
    elif index.is_file():
        where = json.loads(index.read_text())["weight_map"]
    else:
        raise FileNotFoundError(f"Can not find model.safetensors or pytorch_model.bin in {directory}")
    for name, shape in expected_tensors(read_config(directory / "config.json")).items():
        with safe_open(directory / where[name], framework="numpy") as file:
            assert tuple(file.get_slice(name).get_shape()) == shape


def put_in_place(monkeypatch: pytest.MonkeyPatch, modules: dict[str, dict[str, Any]]) -> None:
    """Make these modules importable, and leave the environment's cores to the code under test."""
    for name, attributes in modules.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for key, value in attributes.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
    for variable in ("NEURON_RT_NUM_CORES", "NEURON_RT_VISIBLE_CORES", "NEURON_PROCESS_TAG"):
        # set first, so that what a test's code sets itself is taken back too
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


def write_checkpoint(
    directory: Path, *, fake: dict[str, Any] | None = None, vocab_size: int = 24, **config: Any
) -> Path:
    """A checkpoint folder that the fakes and the checks before them can read; its weights are zeros."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "fake": fake or {},
    } | config
    (directory / "config.json").write_text(json.dumps(values))
    write_weights(directory)
    return directory


def write_weights(directory: Path, shards: int = 1, **changes: NDArray[Any] | None) -> None:
    """The weights that its config.json asks for, as one file or as shards with an index. changes: tensors by name with
    underscores for dots, in place of the zeros, None to leave one out."""
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any] | None] = {
        name: np.zeros(shape, np.float16)
        for name, shape in expected_tensors(read_config(directory / "config.json")).items()
    }
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in tensors.items() if value is not None}
    if shards == 1:
        save_file(kept, directory / "model.safetensors")
        return
    (directory / "model.safetensors").unlink(missing_ok=True)
    files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(kept)}
    for file in set(files.values()):
        save_file({name: value for name, value in kept.items() if files[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
