"""Which device, what is free there, and faults of torch as sentences."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from app.backends.torch.ranks import RankGone
from app.errors import ModelError, PairError

FAULTS = (RuntimeError, ValueError)  # what torch raises; its OutOfMemoryError and NotImplementedError are RuntimeErrors
TRIED = ("cpu", "cuda")
"""Kinds of devices this backend has been run on."""


def accelerator() -> str | None:
    """The kind of this machine's accelerator (cuda, mps, xpu, hpu, ...), or None."""
    return str(torch.accelerator.current_accelerator().type) if torch.accelerator.is_available() else None


def why_no_accelerator() -> str:
    """Where there is none for torch: what of this machine it says is in the way."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this one, {torch.__version__}, was built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # no driver, or one older than this build of torch needs
        return str(error).splitlines()[0].split(". ")[0].rstrip(".")
    return f"{torch.__version__} finds no card"


def choose_device(name: str | None) -> Any:
    """The device of that name (cuda, cuda:1, mps, xpu, cpu, ...), or the accelerator there is. Raises PairError."""
    there = accelerator()
    if name is None:
        return torch.device(there or "cpu")
    known = " or ".join(["cpu", *([there] if there else [])])
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "meta"):
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise PairError(f"PyTorch cannot use the device {name!r} ({reason}); choose {known}.") from None
    if device.type == "meta":
        raise PairError(f"The device {name!r} runs no models; choose {known}.")
    return device


def use_threads(count: int | None) -> None:
    """Have the processor's passes use `count` threads (None: torch's choice, its cores)."""
    if count is not None:
        torch.set_num_threads(count)


def indices(device: Any) -> list[int]:
    """The GPUs a model may use: all for plain `cuda`, else the one named."""
    return list(range(torch.cuda.device_count())) if device.index is None else [device.index]


def free_memory(device: Any) -> int | None:
    """Bytes free on CUDA devices, all of them for plain `cuda`; None where the processor's memory is what counts."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what a pair before this one left
    return sum(int(torch.cuda.mem_get_info(index)[0]) for index in indices(device))


def has_triton() -> bool:
    """Whether fused kernels can be compiled: Linux's CUDA wheels of torch bring Triton, others do not."""
    return importlib.util.find_spec("triton") is not None


def synchronize(device: Any) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def device_name(device: Any) -> str:
    """For the page: the card's name where torch knows one. A kind never tried is said to be so."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    name = "Apple GPU" if device.type == "mps" else device.type
    return name if device.type in TRIED else f"{name} (a kind of device this playground was never tried on)"


def fault(what: str, error: Exception, kind: type[PairError] | type[ModelError]) -> PairError | ModelError:
    """torch's error as a sentence with a remedy."""
    if isinstance(error, RankGone):
        return kind(str(error))
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return kind(
            f"{what}: the device's memory is full; choose a shorter --n-positions, --dtype bf16 or a smaller model."
        )
    reason = (str(error).splitlines() or [""])[0].rstrip(".")
    return kind(f"{what} ({type(error).__name__}: {reason}); try --dtype f32 or --device cpu.")
