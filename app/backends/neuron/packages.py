"""The library and its packages: whether the right ones are installed, before and while they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from app.backends.neuron.machine import check_cores
from app.errors import PairError

PACKAGES = ("transformers_neuronx", "torch_neuronx")
WRONG_PACKAGE = "WRONG PACKAGE"  # what the placeholders of these names say when imported
OLDEST_TRANSFORMERS, FIRST_BAD_TRANSFORMERS = (4, 43, 3), (4, 48)


def check_placeholders() -> None:
    """Raises PairError for the empty packages that PyPI has under these names; they install without a word."""
    for package in PACKAGES:
        origin = getattr(_spec(package), "origin", None)
        if origin and origin.endswith(".py") and WRONG_PACKAGE in Path(origin).read_text("utf-8", "replace")[:1000]:
            raise _placeholder(package)


def check_packages() -> None:
    for package in PACKAGES:
        if _spec(package) is None:
            raise PairError(
                f"The package {package.replace('_', '-')} is not installed here; activate AWS's Neuron environment "
                "(aws_neuronx_venv_transformers_neuronx on its images), or install app/backends/requirements-neuron.txt "
                "as its first lines say."
            )
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        raise PairError(
            "The package transformers is not installed here; install app/backends/requirements-neuron.txt."
        ) from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if not OLDEST_TRANSFORMERS <= numbers < FIRST_BAD_TRANSFORMERS:
        raise PairError(
            f"transformers {version} is installed, with which transformers-neuronx loads wrong or not at all; install "
            "transformers 4.43.3 or newer, below 4.48 (`pip install 'transformers==4.47.1'`)."
        )


def _spec(package: str) -> Any:
    try:
        return importlib.util.find_spec(package)
    except ValueError:  # imported already, by something that gave it no spec
        return object()


def _placeholder(package: str) -> PairError:
    name = package.replace("_", "-")
    return PairError(
        f"The {name} installed here is PyPI's empty placeholder; uninstall it and install the real one from the AWS Neuron "
        "package repository, as app/backends/requirements-neuron.txt says."
    )


def import_library(tp_degree: int) -> Any:
    """transformers_neuronx, the cores named in the environment before it is imported. Raises PairError."""
    named = check_cores(tp_degree)
    if not named:
        os.environ["NEURON_RT_NUM_CORES"] = str(tp_degree)
    try:
        importlib.import_module("torch_neuronx")
        return importlib.import_module("transformers_neuronx")
    except Exception as error:
        if not named:
            del os.environ["NEURON_RT_NUM_CORES"]
        if WRONG_PACKAGE in str(error):
            raise _placeholder("transformers_neuronx") from error
        raise PairError(
            f"transformers-neuronx cannot be imported ({type(error).__name__}: {error}); install "
            "app/backends/requirements-neuron.txt afresh."
        ) from error
