"""The models of `assets/pairs.toml`: which drafts for which, what they hold, what speed to expect of them here."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.pairs.memory import Need
from app.places import ASSETS
from app.record.theory import best_k, predicted_speedup

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = ASSETS / "pairs.toml"
WEIGHT_BYTES = {"int8": 1.03, "bf16": 2.0, "f32": 4.0}
CONTEXT = 4096  # positions that caches are reckoned for
ACCEPTANCE = 0.7
"""Of each drafted token, assumed: pairs of one family lie between 0.6 and 0.8 on most texts. What a pair does is
measured."""
KS = range(2, 9)
_PROBE = 256 << 20  # bytes read to measure the memory's pace


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model as published. parameters: in millions; kv: key heads times their size."""

    id: str
    family: str
    parameters: float
    layers: int
    kv: int
    n_positions: int
    licence: str
    gated: bool = False

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]

    def weights(self, dtype: str) -> int:
        """Bytes of its weights."""
        return int(self.parameters * 1e6 * WEIGHT_BYTES[dtype])

    def need(self, dtype: str, sequences: int) -> Need:
        value = 4 if dtype == "f32" else 2
        position = 2 * self.layers * self.kv * value
        return Need(self.name, self.weights(dtype), sequences * position * min(CONTEXT, self.n_positions))


@dataclass(frozen=True, slots=True)
class KnownPair:
    target: KnownModel
    draft: KnownModel

    @property
    def cost_ratio(self) -> float:
        """A draft's pass over the target's: of bytes, which is what decoding waits for."""
        return self.draft.parameters / self.target.parameters

    @property
    def k(self) -> int:
        """The window to begin with."""
        return best_k(ACCEPTANCE, KS, self.cost_ratio)

    @property
    def gain(self) -> float:
        """Expected speedup where a pass of k tokens costs what one of a single token does."""
        return predicted_speedup(ACCEPTANCE, self.k, self.cost_ratio)

    def bytes(self, dtype: str) -> int:
        """Weights of both, two caches of the target and one of the draft, of CONTEXT positions at most."""
        needs = (self.target.need(dtype, 2), self.draft.need(dtype, 1))
        return sum(need.weights + need.caches for need in needs)

    def fitting(self, free: int | None) -> str | None:
        """The finest precision that fits into `free` bytes; None where none does."""
        return next((dtype for dtype in ("f32", "bf16", "int8") if free is None or self.bytes(dtype) <= free), None)


def models(file: Path = FILE) -> tuple[KnownModel, ...]:
    return tuple(KnownModel(**entry) for entry in tomllib.loads(file.read_text(encoding="utf-8"))["models"])


def pairs(file: Path = FILE) -> tuple[KnownPair, ...]:
    by_id = {model.id: model for model in models(file)}
    entries = tomllib.loads(file.read_text(encoding="utf-8"))["pairs"]
    return tuple(KnownPair(by_id[entry["target"]], by_id[entry["draft"]]) for entry in entries)


def drafts_for(family: str, parameters: float) -> list[KnownModel]:
    """The models of a family that are at most a third of so many parameters (in millions), the most promising first."""
    fitting = [model for model in models() if model.family == family and model.parameters <= parameters / 3]

    def gain(model: KnownModel) -> float:
        ratio = model.parameters / parameters
        return predicted_speedup(ACCEPTANCE, best_k(ACCEPTANCE, KS, ratio), ratio)

    return sorted(fitting, key=gain, reverse=True)


def told(pair: KnownPair, free: int | None, pace: float) -> dict[str, Any]:
    """What is said of a pair, as JSON types. free: bytes of memory; pace: bytes a second (`bandwidth`)."""
    fitting = pair.fitting(free)
    size = {dtype: pair.bytes(dtype) for dtype in ("int8", "bf16", "f32")}
    if fitting is None:
        fits = f"does not fit: at int8 it needs {size['int8'] / 1e9:.1f} GB and {(free or 0) / 1e9:.1f} GB are free"
    else:
        fits = f"fits here at {fitting}" + ("" if fitting == "f32" else ", not finer")
    alone = 1e3 * pair.target.weights("int8") / pace
    licences = dict.fromkeys((pair.target.licence, pair.draft.licence))
    return {
        "target": pair.target.id,
        "draft": pair.draft.id,
        "licence": "; ".join(licences),
        "gated": pair.target.gated or pair.draft.gated,
        "bytes": size,
        "fits": fits,
        "fitting": fitting,
        "ms_alone": alone,
        "ms_together": alone / pair.gain,
        "k": pair.k,
        "gain": pair.gain,
    }


def bandwidth() -> float:
    """Bytes a second that one thread reads from this machine's memory, measured: a lower bound of what an engine
    gets."""
    data = np.ones(_PROBE // 8, np.int64)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - begin)
    return _PROBE / min(seconds)
