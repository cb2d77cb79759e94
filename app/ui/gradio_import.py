"""Gradio imported in half the time: it writes type stubs of its components whenever it is imported, for nobody here.

It asks for a class's file first, and leaves alone what has none; while it is imported here, none of its classes has.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class WithoutStubs(MetaPathFinder):
    """Finds Gradio as it would be found, once, and watches over its import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gradio":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _without_files(run, module)  # type: ignore[method-assign]
        return spec


def _without_files(run: Any, module: ModuleType) -> None:
    file_of = inspect.getfile

    def getfile(object: Any) -> str:
        if isinstance(object, type) and object.__module__.startswith("gradio."):
            raise OSError("not asked for")
        return file_of(object)

    inspect.getfile = getfile
    try:
        run(module)
    finally:
        inspect.getfile = file_of


def install() -> None:
    """For the next import of Gradio, if it is not there yet."""
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, WithoutStubs())
