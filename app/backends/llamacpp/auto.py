"""`--backend auto`: each GGUF of a pair runs on the engine that is faster for it here, the default one or llama.cpp.

Which that is, is measured when a file is first used, and kept beside the other things made from it: both engines load
it in turn and score one row, which is what a token costs the target alone. What they take for five rows is told, too:
an engine that is slower alone may be the faster one with a draft.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.backends.checkpoints.cache import filled, fingerprint
from app.backends.checkpoints.model_files import ModelFiles
from app.backends.checkpoints.pair_loading import PairFiles, identity_notes, loaded, pair_files
from app.backends.llamacpp import loading as llamacpp
from app.backends.llamacpp.library import library
from app.backends.openvino import loading as openvino
from app.engine.model import Model
from app.engine.pair import Pair
from app.errors import PairError
from app.pairs.options import PairOptions
from app.places import cache_dir

PROMPT, PASSES = 32, 7
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that an engine takes for a pass of one row and of five."""

    one: float
    five: float


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
    files = pair_files(options.target, options.draft, gives_states=True)
    why = _only_default(options, files)
    if why is not None:
        load_default = openvino.prepare(options, freed)
        return lambda: _noted(load_default(), why)
    loads: dict[str, Callable[[], Pair]] = {}
    faults = []
    for name, engine in (("openvino", openvino), ("llamacpp", llamacpp)):
        try:
            loads[name] = engine.prepare(options, freed)
        except PairError as error:  # noqa: PERF203
            faults.append(error)
    if not loads:
        raise faults[0]
    if len(loads) == 1:
        (only,) = loads.values()
        return lambda: _noted(only(), f"The other engine was not tried: {faults[0]}")
    return lambda: _load(options, files)


def _only_default(options: PairOptions, files: PairFiles) -> str | None:
    """Why llama.cpp is out of the question; None where it is not."""
    if files.target.stored is None:
        return "llama.cpp runs GGUF files only, so the default engine runs this pair."
    if options.dtype is not None:
        return f"llama.cpp knows no --dtype {options.dtype}, so the default engine runs this pair."
    if files.draft is not None and files.draft.config.conditioned:
        return f"{files.draft.name} reads states that llama.cpp does not give, so the default engine runs this pair."
    try:
        library()
    except PairError as error:
        return f"The default engine runs this pair alone. {error}"
    return None


def _load(options: PairOptions, files: PairFiles) -> Pair:
    notes: list[str] = []

    def model(own: ModelFiles, embeddings: ModelFiles | None) -> Model:
        drafts = own is files.draft
        if own.stored is None:
            return openvino.load_model(own, embeddings, options, states=False, drafts=drafts)
        paces = _paces(own, options)
        chosen = min(paces, key=lambda name: paces[name].one)
        notes.append(_sentence(own.name, paces, chosen))
        return _engine(own, options, chosen, drafts)

    pair = loaded("auto", files, model)
    backend = "llamacpp" if notes[0].endswith("llama.cpp runs it.") else "openvino"
    return replace(pair, backend=backend, notes=(*pair.notes, *notes, *identity_notes(pair.target)))


def _engine(own: ModelFiles, options: PairOptions, name: str, drafts: bool = False) -> Model:
    if name == "llamacpp":
        return llamacpp.gguf_model(own, options)
    return openvino.load_model(own, None, options, states=False, drafts=drafts)


def _paces(own: ModelFiles, options: PairOptions) -> dict[str, Pace]:
    """By engine, what this file takes on it here."""
    versions = (openvino.version(), str(library().__version__))
    machine = (platform.machine(), str(os.cpu_count()), str(options.threads), _processor())
    key = fingerprint(own.files, *versions, *machine, Path(__file__).read_text(encoding="utf-8"))

    def write(directory: Path) -> None:
        _LOG.warning("%s: measuring which engine is faster for it here, once", own.name)
        paces = {name: asdict(_pace(_engine(own, options, name))) for name in ("openvino", "llamacpp")}
        (directory / "paces.json").write_text(json.dumps(paces), encoding="utf-8")

    folder = filled(cache_dir() / f"paces-{key}", write)
    kept = json.loads((folder / "paces.json").read_text(encoding="utf-8"))
    return {name: Pace(**pace) for name, pace in kept.items()}


def _pace(model: Model) -> Pace:
    """Medians of a few passes; the model is free to go after."""
    sequence = model.new_sequence((1, 5))
    prompt = min(PROMPT, model.n_positions - 5)
    sequence.forward([1 + i % (model.vocab_size - 1) for i in range(prompt)], 1)
    medians = []
    for rows in (1, 5):
        seconds = []
        for _ in range(PASSES):
            begin = time.perf_counter()
            sequence.forward([1] * rows, rows)
            seconds.append(time.perf_counter() - begin)
            sequence.rollback(prompt)
        medians.append(statistics.median(seconds))
    sequence.close()
    del sequence, model
    gc.collect()
    return Pace(*medians)


def _sentence(name: str, paces: dict[str, Pace], chosen: str) -> str:
    told = {"openvino": "the default engine", "llamacpp": "llama.cpp"}
    parts = [
        f"{told[engine]} {1e3 * pace.one:.0f} ms for one row and {1e3 * pace.five:.0f} for five"
        for engine, pace in paces.items()
    ]
    return f"{name}, measured here when it was first used: {', '.join(parts)}; {told[chosen]} runs it."


def _noted(pair: Pair, note: str) -> Pair:
    return replace(pair, notes=(*pair.notes, note))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
