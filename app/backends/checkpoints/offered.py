"""The catalogue's pairs as the page offers them: by name, with what is known of each, fetched when one is chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from app.backends.checkpoints.hub_models import local
from app.pairs import catalogue, memory
from app.pairs.catalogue import KnownPair
from app.pairs.options import PairOptions


@dataclass(frozen=True)
class Offered:
    """own: the pair the page started with; others run on the same engine in the same way. file: the catalogue."""

    own: PairOptions
    file: Path = catalogue.FILE

    @cached_property
    def _pairs(self) -> dict[str, KnownPair]:
        return {f"{pair.target.name} + {pair.draft.name}": pair for pair in catalogue.pairs(self.file)}

    @cached_property
    def _pace(self) -> float:
        return catalogue.bandwidth()

    def listed(self) -> dict[str, PairOptions]:
        """Every pair by its name."""
        return {name: self._options(pair) for name, pair in self._pairs.items()}

    def about(self, name: str) -> str:
        """Licence, memory, speed to expect here; empty for what is no pair of the catalogue."""
        if name not in self._pairs:
            return ""
        pair = self._pairs[name]
        row: dict[str, Any] = catalogue.told(pair, memory.free_memory(), self._pace)
        gated = (
            ", gated: its licence is accepted on the Hub, and HF_TOKEN set where this page runs" if row["gated"] else ""
        )
        fetched = (pair.target.weights("bf16") + pair.draft.weights("bf16")) / 1e9
        return (
            f"{name} ({row['licence']}{gated}): about {fetched:.1f} GB are fetched once; at int8 it needs "
            f"{row['bytes']['int8'] / 1e9:.1f} GB of memory, {row['fits']}. Expected here, not measured: "
            f"{row['ms_alone']:.0f} ms a token alone, {row['ms_together']:.0f} ms with k = {row['k']}."
        )

    def fetch(self, name: str, progress: Callable[[int, int, str], None], cancel: threading.Event) -> None:
        """Fetch what is not here yet. progress: told (bytes that have come, bytes of all, the file). Raises PairError,
        also once `cancel` is set."""
        local(self._options(self._pairs[name]), progress, cancel)

    def _options(self, pair: KnownPair) -> PairOptions:
        return PairOptions(
            backend=self.own.backend,
            target=Path(pair.target.id),
            draft=Path(pair.draft.id),
            dtype=self.own.dtype,
            threads=self.own.threads,
            device=self.own.device,
            n_positions=catalogue.CONTEXT,
        )
