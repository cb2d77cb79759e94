"""Loads a pair on AWS Neuron (Inf2, Trn1, Trn2), by transformers-neuronx or NxD Inference.

Nothing of the library, nor torch, is imported before everything that can be checked without is checked: a compilation
takes minutes, and an error after them is worth little.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from app.backends.checkpoints.model_files import ModelFiles, check_pair
from app.backends.neuron import artifacts as programs
from app.backends.neuron.checks import checked_windows, checkpoint
from app.backends.neuron.library import Library
from app.backends.neuron.machine import check_cores, host
from app.backends.neuron.model import NeuronModel
from app.backends.neuron.packages import check_placeholders, chosen, import_library
from app.backends.neuron.settings import DEFAULT_N_POSITIONS, DEFAULT_WINDOWS, Settings
from app.backends.neuron.upstream import run_upstream
from app.backends.neuron.weights import check_weights
from app.engine.pair import Pair, Promised
from app.engine.restricted import restricted
from app.errors import PairError, RequestError
from app.neuron.catalogue import NXD_INFERENCE, TRANSFORMERS_NEURONX, ModelConfig
from app.neuron.plan import Plan, named_dtype
from app.neuron.plan import plan as size
from app.pairs.options import PairOptions
from app.places import cache_dir

STAYS = "A process keeps the NeuronCores it first took; start the playground with that pair instead, by --pair FILE."
log = logging.getLogger(__name__)


def promised(options: PairOptions) -> Promised:
    """The windows that will be offered, and whether the library brings a loop of its own."""
    try:
        library = chosen(options.neuron_library).name
    except PairError:  # told on loading, after what else is amiss
        library = options.neuron_library or TRANSFORMERS_NEURONX
    return Promised(options.windows or DEFAULT_WINDOWS, library == TRANSFORMERS_NEURONX)


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
    if options.target is None or options.draft is None:
        raise PairError("The neuron backend has no pair of its own; name one with --target DIR and --draft DIR.")
    for path in (options.target, options.draft):
        if not path.is_dir():
            raise PairError(f"{path} is no model directory; the neuron backend loads Hugging Face directories.")
    target_dir, draft_dir = options.target, options.draft
    target_files, draft_files = ModelFiles(target_dir, cache_dir()), ModelFiles(draft_dir, cache_dir())
    never = check_pair(target_files, draft_files)
    given = {
        "dtype": options.dtype,
        "tp_degree": options.tp_degree,
        "n_positions": options.n_positions,
        "windows": options.windows,
        "artifacts": options.artifacts,
        "library": options.neuron_library,
    }
    chosen_options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def load() -> Pair:
        target, draft = load_pair(target_dir, draft_dir, **chosen_options)
        return Pair(
            name=f"{target.name} + {draft.name}",
            backend="neuron",
            target=target,
            draft=restricted(draft, target.vocab_size, never),
            tokenizer=target_files.tokenizer(),
            reference_loop=partial(run_upstream, target, draft) if promised(options).reference_loop else None,
            stays=STAYS,
        )

    return load


def load_pair(
    target_dir: Path,
    draft_dir: Path,
    *,
    dtype: str = "bf16",
    tp_degree: int | None = None,
    n_positions: int = DEFAULT_N_POSITIONS,
    windows: Ids[int] = DEFAULT_WINDOWS,
    context_length_estimate: int | None = None,
    artifacts: Path | None = None,
    num_cores: int | None = None,
    library: str | None = None,
) -> tuple[NeuronModel, NeuronModel]:
    """Load and, where no artefacts fit, compile the target and its draft; returns (target, draft).

    target_dir, draft_dir: Hugging Face checkpoints. dtype: bf16, f16 or f32. tp_degree: NeuronCores that both models
    share; None: the planner's choice. n_positions: longest sequence, prompt and answer, in tokens. windows: the sizes
    of k that are offered; transformers-neuronx compiles each, NxD Inference the largest, which serves them all.
    context_length_estimate: tokens of the one prefill program; None: half of n_positions (transformers-neuronx) or all
    of them. artifacts: folder to keep compiled programs in. num_cores: NeuronCores of this machine, counted where None.
    library: its name; None: the first that is installed.

    Raises PairError: everything that can be known beforehand, before anything is imported or compiled.
    """
    check_placeholders(library)
    machine = host(num_cores)
    engine = chosen(library)
    try:
        dtype = named_dtype(dtype)
    except RequestError as error:
        raise PairError(str(error)) from None
    if n_positions < 2:
        raise PairError(f"A context of {n_positions} positions is too short; choose 2 or more.")
    windows = checked_windows(windows, n_positions, engine.name)
    prefill = engine.prefill(n_positions) if context_length_estimate is None else context_length_estimate
    compiled = engine.compiled(windows)
    _check_prefill(engine, prefill, n_positions, compiled)
    target_config, draft_config = checkpoint(target_dir), checkpoint(draft_dir)
    plan = size(machine, target_config, draft_config, dtype, n_positions, target_tp=tp_degree, library=engine.name)
    tp_degree = _degree(plan)
    check_cores(tp_degree)
    check_weights(Path(target_dir), target_config)
    check_weights(Path(draft_dir), draft_config)
    folders = {role: None if artifacts is None else Path(artifacts) / role for role in ("target", "draft")}
    for folder in folders.values():
        programs.check(folder)
    for warning in plan.warnings:
        log.warning(warning)

    import_library(engine, tp_degree)
    settings = Settings(engine.name, dtype, tp_degree, n_positions, prefill)

    def load(directory: Path, config: ModelConfig, own: Settings, role: str, offered: tuple[int, ...]) -> NeuronModel:
        return _load(engine, Path(directory), config, own, folders[role], offered)

    # The draft first: it compiles soonest, so that a fault of the installation shows early.
    draft = load(draft_dir, draft_config, settings, "draft", ())
    target = load(target_dir, target_config, replace(settings, compiled=compiled), "target", windows)
    return target, draft


def _check_prefill(engine: Library, prefill: int, n_positions: int, compiled: tuple[int, ...]) -> None:
    if not 1 < prefill <= n_positions:
        raise PairError(
            f"A prefill of {prefill} tokens does not fit a context of {n_positions} positions; choose 2 "
            f"to {n_positions}."
        )
    if engine.name == NXD_INFERENCE and prefill in compiled:
        raise PairError(
            f"NxD Inference tells a prefill from a window by its size, and both are {prefill}; choose another window."
        )


def _degree(plan: Plan) -> int:
    if plan.refusals or plan.tp_degree is None:
        raise PairError(plan.refusals[0])
    return plan.tp_degree


def _load(
    engine: Library,
    directory: Path,
    config: ModelConfig,
    settings: Settings,
    folder: Path | None,
    windows: tuple[int, ...],
) -> NeuronModel:
    """The model on its cores. Raises PairError."""
    known = programs.known(folder, directory, settings)
    begin = time.perf_counter()
    log.info("Loading %s on %d NeuronCores; a first compilation takes minutes.", config.name, settings.tp_degree)
    try:
        module = engine.load(directory, config, settings, folder, known=known)
    except PairError:
        raise
    except Exception as error:
        raise _load_failed(config.name, settings, folder if known else None, error) from error
    log.info("Loaded %s in %.0f s.", config.name, time.perf_counter() - begin)
    return NeuronModel(module, config, settings, windows)


def _load_failed(name: str, settings: Settings, artifacts: Path | None, error: Exception) -> PairError:
    text = str(error)
    if "nec_comm is already init" in text:
        return PairError(
            f"{name} would overlap in part the NeuronCores this process has initialised; restart the "
            "playground, and load "
            "both models with one tp_degree."
        )
    if re.search(r"allocat|out of memory|RESOURCE|NRT_FAIL", text, re.IGNORECASE):
        return PairError(
            f"{name} could not be placed on {settings.tp_degree} NeuronCores ({text}); see in neuron-top that no other "
            "process holds them, then lower --n-positions or raise --tp-degree."
        )
    if artifacts is not None:
        return PairError(
            f"The compiled artefacts in {artifacts} cannot be loaded ({type(error).__name__}: {text}); "
            "delete that folder "
            "to compile them again."
        )
    return PairError(
        f"{name} could not be loaded on Neuron ({type(error).__name__}: {text}); fetch the checkpoint again, and see "
        "that the Neuron driver, runtime and packages are of one release."
    )
