"""Loads a pair on AWS Neuron (Inf2, Trn1) by transformers-neuronx 0.13.

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

from app.backends.checkpoints.checkpoint import read_json
from app.backends.checkpoints.model_files import ModelFiles, check_pair
from app.backends.neuron.artifacts import check_artifacts, known_artifacts, save_artifacts
from app.backends.neuron.checks import checked_windows, checkpoint
from app.backends.neuron.machine import claim_cores, host
from app.backends.neuron.model import NeuronModel
from app.backends.neuron.packages import check_packages, check_placeholders, import_library
from app.backends.neuron.settings import DEFAULT_N_POSITIONS, DEFAULT_WINDOWS, Settings
from app.backends.neuron.upstream import run_upstream
from app.engine.pair import Pair
from app.errors import PairError
from app.neuron.catalogue import ModelConfig
from app.neuron.memory import DTYPE_BYTES
from app.neuron.plan import plan as size
from app.pairs.options import PairOptions, cache_dir

STAYS = "A process keeps the NeuronCores it first took; start the playground with that pair instead, by --pair FILE."
log = logging.getLogger(__name__)


def prepare(options: PairOptions, freed: int) -> Callable[[], Pair]:
    if options.target is None or options.draft is None:
        raise PairError("The neuron backend has no pair of its own; name one with --target DIR and --draft DIR.")
    for path in (options.target, options.draft):
        if not path.is_dir():
            raise PairError(f"{path} is no model directory; the neuron backend loads Hugging Face directories.")
    target_dir, draft_dir = options.target, options.draft
    target_files, draft_files = ModelFiles(target_dir, cache_dir()), ModelFiles(draft_dir, cache_dir())
    check_pair(target_files, draft_files)
    given = {
        "dtype": options.dtype,
        "tp_degree": options.tp_degree,
        "n_positions": options.n_positions,
        "windows": options.windows,
        "artifacts": options.artifacts,
    }
    chosen_options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def load() -> Pair:
        target, draft = load_pair(target_dir, draft_dir, **chosen_options)
        return Pair(
            name=f"{target.name} + {draft.name}",
            backend="neuron",
            target=target,
            draft=draft,
            tokenizer=target_files.tokenizer(),
            reference_loop=partial(run_upstream, target, draft),
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
) -> tuple[NeuronModel, NeuronModel]:
    """Load and, where no artefacts fit, compile the target and its draft; returns (target, draft).

    target_dir, draft_dir: Hugging Face checkpoints. dtype: bf16, f16 or f32. tp_degree: NeuronCores that both models
    share; None: the planner's choice. n_positions: longest sequence, prompt and answer, in tokens. windows: the sizes
    of k to compile for the target. context_length_estimate: tokens of the one prefill program, n_positions // 2 where
    None (a longer prompt is continued token by token). artifacts: folder to keep compiled programs in. num_cores:
    NeuronCores of this machine, counted where None.

    Raises PairError: everything that can be known beforehand, before anything is imported or compiled.
    """
    check_placeholders()
    machine = host(num_cores)
    check_packages()
    if dtype not in DTYPE_BYTES:
        raise PairError(f"There is no precision {dtype!r} on Neuron; choose bf16, f16 or f32.")
    if n_positions < 2:
        raise PairError(f"A context of {n_positions} positions is too short; choose 2 or more.")
    target_config, draft_config = checkpoint(target_dir), checkpoint(draft_dir)
    windows = checked_windows(windows, n_positions)
    plan = size(machine, target_config, draft_config, dtype, n_positions, target_tp=tp_degree)
    if plan.refusals or plan.tp_degree is None:
        raise PairError(plan.refusals[0])
    tp_degree = plan.tp_degree
    prefill = max(2, n_positions // 2) if context_length_estimate is None else context_length_estimate
    if not 1 < prefill <= n_positions:
        raise PairError(
            f"A prefill of {prefill} tokens does not fit a context of {n_positions} positions; choose 2 to {n_positions}."
        )
    folders = {role: None if artifacts is None else Path(artifacts) / role for role in ("target", "draft")}
    for folder in folders.values():
        check_artifacts(folder)
    for warning in plan.warnings:
        log.warning(warning)

    library = import_library(tp_degree)
    settings = Settings(dtype, tp_degree, n_positions, prefill, ())

    def load(directory: Path, config: ModelConfig, role: str, own: Settings) -> NeuronModel:
        module = _load(library, directory, config.name, own, folders[role])
        return NeuronModel(module, config, own)

    # The draft first: it compiles soonest, so that a fault of the installation shows early.
    draft = load(draft_dir, draft_config, "draft", settings)
    target = load(target_dir, target_config, "target", replace(settings, windows=windows))
    return target, draft


def _load(library: Any, directory: Path, name: str, settings: Settings, artifacts: Path | None) -> Any:
    """The library's model, on its cores. Raises PairError."""
    raw = read_json(directory / "config.json")
    known = known_artifacts(library, raw, settings, artifacts)
    plain = raw.get("model_type", "llama") == "llama"
    kind = library.LlamaForSampling if plain else library.NeuronAutoModelForCausalLM
    begin = time.perf_counter()
    try:
        # One bucket each: every window costs one more compiled program for every bucket.
        module = kind.from_pretrained(
            str(directory),
            n_positions=[settings.n_positions],
            batch_size=1,
            amp=settings.dtype,
            tp_degree=settings.tp_degree,
            context_length_estimate=[settings.prefill],
        )
        if settings.windows:
            if not hasattr(module, "speculative_forward"):
                raise PairError(
                    f"transformers-neuronx cannot score windows with {name} ({raw.get('model_type')}); choose a Llama target."
                )
            module.enable_speculative_decoder(list(settings.windows))
        if artifacts is not None and known:
            module.load(str(artifacts))
        log.info("Loading %s on %d NeuronCores; a first compilation takes minutes.", name, settings.tp_degree)
        claim_cores(settings.tp_degree)
        module.to_neuron()
        if artifacts is not None and not known:
            save_artifacts(library, raw, settings, module, artifacts)
    except PairError:
        raise
    except Exception as error:
        raise _load_failed(name, settings, artifacts if known else None, error) from error
    log.info("Loaded %s in %.0f s.", name, time.perf_counter() - begin)
    return module


def _load_failed(name: str, settings: Settings, artifacts: Path | None, error: Exception) -> PairError:
    text = str(error)
    if "nec_comm is already init" in text:
        return PairError(
            f"{name} would overlap in part the NeuronCores this process has initialised; restart the playground, and load "
            "both models with one tp_degree."
        )
    if re.search(r"allocat|out of memory|RESOURCE|NRT_FAIL", text, re.IGNORECASE):
        return PairError(
            f"{name} could not be placed on {settings.tp_degree} NeuronCores ({text}); see in neuron-top that no other "
            "process holds them, then lower --n-positions or raise --tp-degree."
        )
    if artifacts is not None:
        return PairError(
            f"The compiled artefacts in {artifacts} cannot be loaded ({type(error).__name__}: {text}); delete that folder "
            "to compile them again."
        )
    return PairError(
        f"{name} could not be loaded on Neuron ({type(error).__name__}: {text}); fetch the checkpoint again, and see "
        "that the Neuron driver, runtime and packages are of one release."
    )
