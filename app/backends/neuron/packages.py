"""The libraries' packages: which is installed, whether it is the right one, before and while it is imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from app.backends.neuron.library import Library
from app.backends.neuron.machine import check_cores
from app.backends.neuron.nxd import NxdInference
from app.backends.neuron.tnx import TransformersNeuronx
from app.errors import PairError
from app.neuron.monitor import TAG_VARIABLE, process_tag

BY_NAME: dict[str, Library] = {library.name: library for library in (TransformersNeuronx(), NxdInference())}
"""In the order in which they are looked for."""
WRONG_PACKAGE = "WRONG PACKAGE"  # what the placeholders of these names say when imported


def check_placeholders(name: str | None) -> None:
    """Raises PairError for the empty packages that PyPI has under these names; they install without a word."""
    for library in _wanted(name):
        for package in library.packages:
            origin = getattr(_spec(package), "origin", None)
            if origin and origin.endswith(".py") and WRONG_PACKAGE in Path(origin).read_text("utf-8", "replace")[:1000]:
                raise _placeholder(package, library)


def chosen(name: str | None) -> Library:
    """The library of this name, or the first that is installed. Raises PairError where it, or what it needs, is not."""
    wanted = _wanted(name)
    installed = [library for library in wanted if _spec(library.package) is not None]
    if not installed:
        names = " nor ".join(library.package.replace("_", "-") for library in wanted)
        raise PairError(
            f"{'Neither ' if len(wanted) > 1 else ''}{names} is "
            f"{'' if len(wanted) > 1 else 'not '}installed here; activate "
            f"the Neuron environment that has it (`ls /opt | grep venv` shows those of AWS's images), or make one as "
            f"{wanted[0].requirements} says."
        )
    library = installed[0]
    for package in library.packages:
        if _spec(package) is None:
            raise PairError(
                f"{package.replace('_', '-')} is not installed here, which {library.name} needs; activate the Neuron "
                f"environment that has both, or make one as {library.requirements} says."
            )
    _check_transformers(library)
    return library


def import_library(library: Library, tp_degree: int) -> Any:
    """The package, the cores named in the environment before it is imported. Raises PairError."""
    named = check_cores(tp_degree)
    if not named:
        os.environ["NEURON_RT_NUM_CORES"] = str(tp_degree)
    # By default the pid, which is not this process's alone on a machine with containers.
    os.environ.setdefault(TAG_VARIABLE, process_tag())
    try:
        importlib.import_module("torch_neuronx")
        return importlib.import_module(library.package)
    except Exception as error:
        if not named:
            del os.environ["NEURON_RT_NUM_CORES"]
        if WRONG_PACKAGE in str(error):
            raise _placeholder(library.package, library) from error
        raise PairError(
            f"{library.name} cannot be imported ({type(error).__name__}: {error}); install it afresh, as "
            f"{library.requirements} says."
        ) from error


def _wanted(name: str | None) -> list[Library]:
    if name is None:
        return list(BY_NAME.values())
    if name not in BY_NAME:
        raise PairError(f"There is no Neuron library {name!r}; choose one of {', '.join(BY_NAME)}.")
    return [BY_NAME[name]]


def _placeholder(package: str, library: Library) -> PairError:
    return PairError(
        f"The {package.replace('_', '-')} installed here is PyPI's empty placeholder; uninstall it "
        "and install the real one "
        f"from the AWS Neuron package repository, as {library.requirements} says."
    )


def _check_transformers(library: Library) -> None:
    oldest, too_new, advised = library.transformers
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        raise PairError(f"The package transformers is not installed here; install {library.requirements}.") from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if not oldest <= numbers < too_new:
        raise PairError(
            f"transformers {version} is installed, with which {library.name} loads wrong or not at all; install "
            f"{_dotted(oldest)} or newer, below {_dotted(too_new)} (`pip install 'transformers=={advised}'`)."
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _spec(package: str) -> Any:
    try:
        return importlib.util.find_spec(package)
    except ValueError:  # imported already, by something that gave it no spec
        return object()
