"""Which device each layer goes to, and a checkpoint's values put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.backends.checkpoints.checkpoint import Checkpoint, InHalf
from app.backends.checkpoints.config import LlamaConfig
from app.backends.torch import devices, identity, int4, llama
from app.backends.torch.model import TorchModel
from app.backends.torch.network import Network
from app.backends.torch.precision import Precision
from app.backends.torch.ranks import Ranks
from app.errors import PairError

SPARE = 0.85  # of a device's free memory is for weights, the rest for caches and activations


def load(
    config: LlamaConfig,
    weights: Checkpoint,
    *,
    name: str,
    device: Any,
    precision: Precision,
    n_positions: int | None = None,
    kept_ids: NDArray[np.int64] | None = None,
    layers: Sequence[Any] | None = None,
    exact: bool = True,
    ranks: Ranks | None = None,
    states: bool = False,
) -> TorchModel:
    """The checkpoint ready to run. kept_ids: the ids a trimmed output layer covers, [kept_ids]. layers: each one's
    device, chosen by what is free where None. exact: find out whether rows depend on their window. ranks: the processes
    that share it. states: whether its caches give states. Raises PairError."""
    try:
        part = llama.Part() if ranks is None else ranks.part
        placed = layers or ([device] * config.num_layers if ranks else place(config, device, precision))
        options = {"pack": int4.packed} if precision.packed else {}
        values = InHalf(weights) if precision.values is torch.float16 else weights
        network = Network(
            tuple(llama.read(config, values, placed, precision.values, part, **options)),
            llama.shape_of(config, part),
            config.vocab_size,
            precision.values,
            ranks,
            llama.parts_head(config, part),
        )
        model = TorchModel(
            network,
            name=name,
            dtype=precision.name,
            n_positions=min(n_positions or config.n_positions, config.n_positions),
            vocab_size=config.vocab_size,
            num_parameters=config.num_parameters,
            kept_ids=kept_ids,
            states=states,
        )
        if exact:
            identity.settle(model)
    except devices.FAULTS as error:
        raise devices.fault(f"{name} cannot be loaded on {device}", error, PairError) from error
    return model


def place(config: LlamaConfig, device: Any, precision: Precision) -> list[Any]:
    """The device of every layer: one where the weights fit, else CUDA devices in order and then the processor."""
    if device.type != "cuda" or device.index is not None:
        return [device] * config.num_layers
    size = precision.weight_bytes(config)
    room: dict[Any, int] = {
        torch.device("cuda", index): int(SPARE * torch.cuda.mem_get_info(index)[0]) for index in devices.indices(device)
    }
    emptiest = max(room, key=room.__getitem__)
    if size <= room[emptiest]:
        return [emptiest] * config.num_layers
    return spread(config, precision, {**room, torch.device("cpu"): 2**60})


def spread(config: LlamaConfig, precision: Precision, room: Mapping[Any, int]) -> list[Any]:
    """Layer by layer to the devices by bytes of room on each, in the order of `room`; the embeddings go with the first
    layer and the output layer with the last, for which every device keeps room."""
    ends, layer = precision.end_bytes(config), precision.layer_bytes(config)
    placed: list[Any] = []
    for device, free in room.items():
        fitting = max(0, (free - ends) // layer)
        placed += [device] * min(fitting, config.num_layers - len(placed))
    return placed
