"""What differs between the two libraries that put a pair on NeuronCores, and which of them is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from app.backends.neuron.model import Programs
from app.backends.neuron.settings import Settings
from app.neuron.catalogue import ModelConfig


class Library(Protocol):
    """One of them. Nothing of it is imported before `load`."""

    @property
    def name(self) -> str: ...
    @property
    def package(self) -> str:
        """What is imported."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """What must be installed, the library first."""
        ...

    @property
    def transformers(self) -> tuple[tuple[int, ...], tuple[int, ...], str]:
        """The oldest version it loads right with, the first that is too new, and one to install."""
        ...

    @property
    def requirements(self) -> str:
        """The file that says how to install it."""
        ...

    def compiled(self, windows: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the programs that score these windows."""
        ...

    def prefill(self, n_positions: int) -> int:
        """Tokens of the one prefill program, where nobody named them."""
        ...

    def load(
        self, directory: Path, config: ModelConfig, settings: Settings, artifacts: Path | None, *, known: bool
    ) -> Programs:
        """The model on its cores, its package imported already. known: `artifacts` hold programs for exactly this;
        where not, they are compiled, and kept there where it is not None. Raises whatever the library raises."""
        ...
