"""This machine: its Neuron devices, the instance they make, and the cores this process has or may take."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from app.errors import PairError
from app.neuron.catalogue import INSTANCES, OTHER_GENERATIONS, Instance, instance_named, product_name

CORES_PER_CHIP = 2  # a /dev/neuron* each
TRN2_CORES_PER_CHIP = 4  # logical ones

# The runtime keeps the cores it first initialised for as long as the process lives.
_claimed_cores: int | None = None


def host(num_cores: int | None) -> Instance:
    """This machine as an instance of the planner. Raises PairError where it has no Neuron device."""
    name = product_name()
    known = INSTANCES.get(name)
    if known is None and re.match("|".join(OTHER_GENERATIONS), name):
        return instance_named(name)  # refused by the plan, with its reason
    chip = TRN2_CORES_PER_CHIP if name.startswith("trn2") else CORES_PER_CHIP
    if num_cores is None:
        num_cores = chip * len(_devices())
    if num_cores == 0 and known is not None:
        raise PairError(
            f"This {name} shows no /dev/neuron* device, so its driver is not loaded; install aws-neuronx-dkms and run "
            "`sudo modprobe neuron`."
        )
    if num_cores == 0:
        raise PairError(
            "There is no Neuron device (/dev/neuron*) on this machine; run on an Inf2, Trn1 or Trn2 instance, or use "
            "another --backend."
        )
    known = known or next((each for each in INSTANCES.values() if each.num_cores == num_cores), None)
    if known is not None and known.num_cores == num_cores:
        return known
    # A container may be given some of the devices only.
    degrees = known.tp_degrees if known is not None else (1, 2, 8, 16, 32)
    part = f"this machine ({num_cores} NeuronCores)"
    degrees = tuple(degree for degree in degrees if degree <= num_cores)
    if known is None:
        return Instance(part, num_cores, degrees)
    return replace(known, name=part, num_cores=num_cores, tp_degrees=degrees, doubtful=())


def _devices() -> list[Path]:
    return [path for path in Path("/dev").glob("neuron*") if re.fullmatch(r"neuron\d+", path.name)]


def claim_cores(tp_degree: int) -> None:
    """Note that the runtime is about to initialise them."""
    global _claimed_cores
    _claimed_cores = tp_degree


def check_cores(tp_degree: int) -> bool:
    """Whether the environment names the cores already. Raises PairError where it cannot work."""
    if _claimed_cores is not None and _claimed_cores != tp_degree:
        raise PairError(
            f"This process has initialised {_claimed_cores} NeuronCores, and a pair on {tp_degree} would "
            "overlap them in "
            f"part (`nec_comm is already init'd`); restart the playground with --tp-degree {tp_degree}."
        )
    # The first has precedence.
    for variable, count in (("NEURON_RT_VISIBLE_CORES", _count_cores), ("NEURON_RT_NUM_CORES", int)):
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        try:
            visible = count(value)
        except ValueError:
            raise PairError(
                f"{variable}={value} names no cores; unset it, or write it like 0-{tp_degree - 1}."
            ) from None
        if visible < tp_degree:
            raise PairError(
                f"{variable}={value} gives this process {visible} NeuronCores and tp_degree is {tp_degree}; "
                "unset it, or "
                "give it as many."
            )
        return True
    return False


def _count_cores(value: str) -> int:
    """Cores in `0-7`, `3`, or `0,2,4-5`."""
    cores: set[int] = set()
    for part in value.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return len(cores)
