"""A pair on AWS Neuron (Inf2, Trn1), by transformers-neuronx 0.13.

Only its two primitives are used, with explicit cache ids: `forward`, a prefill from position 0 or one token at one
position, and `speculative_forward`, a window of a compiled size. Rollback is arithmetic: a stale slot is written again
before it is attended. The round loop is our own; `run_upstream` runs the library's, to compare with.

Nothing of the library, nor torch, is imported before `load_pair` has checked everything that can be checked without:
a compilation takes minutes, and an error after them is worth little.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from app.backends.checkpoints.checkpoint import read_json
from app.engine.model import Logits
from app.errors import ModelError, PairError, RequestError
from app.neuron import planner
from app.record.trace import DraftedToken, FinalToken, FinishReason, Provenance, Round, State

PACKAGES = ("transformers_neuronx", "torch_neuronx")
WRONG_PACKAGE = "WRONG PACKAGE"  # what the placeholders of these names say when imported
OLDEST_TRANSFORMERS, FIRST_BAD_TRANSFORMERS = (4, 43, 3), (4, 48)
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",  # a file, or the folder of a split checkpoint
    "pytorch_model.bin.index.json",
)
SETTINGS_FILE = "settings.json"  # beside compiled artefacts: what they were compiled for
UNFINISHED_FILE = "unfinished"  # while they are being written
CORES_PER_DEVICE = 2  # of an Inferentia2 or Trainium chip
DEFAULT_WINDOWS = (2, 3, 4, 5, 7, 8)
DEFAULT_N_POSITIONS = 2048

log = logging.getLogger(__name__)

# The runtime keeps the cores it first initialised for as long as the process lives.
_claimed_cores: int | None = None


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
    _check_placeholders()
    host = _host(num_cores)
    _check_packages()
    if dtype not in planner.DTYPE_BYTES:
        raise PairError(f"There is no precision {dtype!r} on Neuron; choose bf16, f16 or f32.")
    if n_positions < 2:
        raise PairError(f"A context of {n_positions} positions is too short; choose 2 or more.")
    target_config, draft_config = _checkpoint(target_dir), _checkpoint(draft_dir)
    windows = _checked_windows(windows, n_positions)
    plan = planner.plan(host, target_config, draft_config, dtype, n_positions, target_tp=tp_degree)
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
        _check_artifacts(folder)
    for warning in plan.warnings:
        log.warning(warning)

    library = _import_library(tp_degree)
    settings = _Settings(dtype, tp_degree, n_positions, prefill, ())

    def load(directory: Path, config: planner.ModelConfig, role: str, own: _Settings) -> NeuronModel:
        module = _load(library, directory, config.name, own, folders[role])
        return NeuronModel(module, config, own)

    # The draft first: it compiles soonest, so that a fault of the installation shows early.
    draft = load(draft_dir, draft_config, "draft", settings)
    target = load(target_dir, target_config, "target", replace(settings, windows=windows))
    return target, draft


@dataclass(frozen=True, slots=True)
class _Settings:
    """All that a compiled program depends on, beside the checkpoint's shape and the library."""

    dtype: str
    tp_degree: int
    n_positions: int
    prefill: int
    windows: tuple[int, ...]


class NeuronModel:
    """See `app.engine.model.Model`. `module` is the library's own object."""

    max_sequences = 1
    kept_ids = None
    bit_identical = False  # one token and a window of k are different compiled programs: nothing promises equal sums

    def __init__(self, module: Any, config: planner.ModelConfig, settings: _Settings) -> None:
        self.module = module
        self.name = config.name
        self.vocab_size = config.vocab_size
        self.n_positions = settings.n_positions
        self.dtype = settings.dtype
        self.device = f"Neuron, {settings.tp_degree} core" + ("s" if settings.tp_degree > 1 else "")
        self.num_parameters = config.num_parameters
        self.windows = settings.windows
        self.in_use = False  # by its one sequence
        self._memory = planner.device_parameters(config, settings.tp_degree) * planner.DTYPE_BYTES[settings.dtype]

    def memory(self) -> int:
        return self._memory

    def new_sequence(self, windows: Ids[int] = ()) -> NeuronSequence:
        assert not self.in_use, "a Neuron model holds one sequence at a time"
        self.in_use = True
        return NeuronSequence(self)

    def prefill(self, token_ids: Ids[int]) -> Logits:
        """Cache `token_ids` (two or more) from position 0; returns the last one's row, float32 [1, V]."""
        rows = self._call(self.module.forward, token_ids, 0)
        return self._array(rows, (1, self.vocab_size))

    def step(self, token_id: int, position: int) -> Logits:
        """Cache one token at `position`; returns its row, float32 [1, V]."""
        rows = self._call(self.module.forward, [token_id], position)
        return self._array(rows, (1, self.vocab_size))

    def score(self, token_ids: Ids[int], position: int, window: int) -> Logits:
        """Cache up to `window` tokens (a compiled size) from `position`; returns their rows, float32 [n, V].

        The window is filled up with dummy tokens at the positions that follow: causal, so the rows before them do not
        see them, and stale, so they are overwritten before anything does.
        """
        padded = [*token_ids, *[0] * (window - len(token_ids))]
        rows = self._call(self.module.speculative_forward, padded, position, speculation_length=window)
        return self._array(rows, (window, self.vocab_size, 1))[: len(token_ids), :, 0]

    def window_for(self, count: int, position: int) -> int | None:
        """The compiled window to score the next of `count` tokens with; None where a plain step must do."""
        fitting = [window for window in self.windows if position + window <= self.n_positions]
        if count < 2 or not fitting:
            return None
        return next((window for window in fitting if window >= count), max(fitting))

    def _call(self, function: Callable[..., Any], token_ids: Ids[int], position: int, **options: int) -> Any:
        import torch

        count = len(token_ids)
        # What the library answers beyond its context is a bare StopIteration.
        assert 0 <= position <= self.n_positions - count, (position, count, self.n_positions)
        input_ids = torch.tensor([list(token_ids)], dtype=torch.int64)
        cache_ids = torch.arange(position, position + count, dtype=torch.int32)
        try:
            with torch.inference_mode():
                return function(input_ids, cache_ids=cache_ids, **options)
        except Exception as error:
            raise _pass_failed(self.name, error) from error

    def _array(self, rows: Any, shape: tuple[int, ...]) -> Logits:
        if tuple(rows.shape) != shape:
            raise ModelError(
                f"{self.name} answered with shape {tuple(rows.shape)} where {shape} was due; "
                "delete its compiled artefacts and load it again."
            )
        return np.array(rows.numpy(), dtype=np.float32, order="C")  # a copy: the library may reuse its buffer


class NeuronSequence:
    """See `app.engine.model.Sequence`."""

    def __init__(self, model: NeuronModel) -> None:
        self._model = model
        self.length = 0

    def forward(self, token_ids: Ids[int], num_logits: int) -> Logits:
        model, count = self._model, len(token_ids)
        assert model.in_use, "this sequence was closed"
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= model.n_positions, (self.length, count, model.n_positions)
        if self.length == 0 and count > 1 and num_logits == 1:
            rows = [model.prefill(token_ids)]
        else:
            rows = list(self._append(token_ids))
        self.length += count
        return np.concatenate(rows)[-num_logits:]

    def _append(self, token_ids: Ids[int]) -> Iterator[Logits]:
        """Windows where one is compiled and fits, plain steps elsewhere."""
        done = 0
        while done < len(token_ids):
            position = self.length + done
            window = self._model.window_for(len(token_ids) - done, position)
            if window is None:
                yield self._model.step(token_ids[done], position)
                done += 1
            else:
                chunk = token_ids[done : done + window]
                yield self._model.score(chunk, position, window)
                done += len(chunk)

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def close(self) -> None:
        self._model.in_use = False


# --- the library's own loop, the reference to compare with ---


def run_upstream(
    target: NeuronModel,
    draft: NeuronModel,
    prompt: Ids[int],
    *,
    max_tokens: int,
    k: int,
    stop_ids: frozenset[int],
    seed: int = 0,
    acceptor: Any = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Round, None, None]:
    """Run transformers-neuronx's `SpeculativeGenerator` and yield its rounds, once it has ended.

    It drafts by argmax, knows no temperature, top_k or top_p, and emits its first token greedily: a reference for
    speed and for its bias, not for text. acceptor: a `TokenAcceptor`, the stock one where None. The tokens emitted
    are what the loop itself counts; p and q are plain softmax values of the scores it handed to the acceptor; coins
    and alternatives are not known. Its known crashes are met beforehand or ended with a sentence.

    Raises RequestError before anything runs, and ModelError, after the rounds before it, where the loop fails.
    """
    import torch

    if k < 2 or k not in target.windows:
        raise RequestError(f"The window k = {k} was not compiled; choose one of {', '.join(map(str, target.windows))}.")
    if target.vocab_size != draft.vocab_size:
        raise RequestError(
            f"Upstream's loop needs equal vocabularies, and the draft's has {draft.vocab_size} ids where the target's has "
            f"{target.vocab_size}; use this playground's own loop."
        )
    # A window may not cross the end of the context: a bare StopIteration otherwise.
    longest = min(target.n_positions, draft.n_positions) - k + 1
    if len(prompt) >= longest:
        raise RequestError(
            f"The prompt is {len(prompt)} tokens long and upstream's loop takes {longest - 1} at k = {k}; shorten it."
        )
    room = min(max_tokens, longest - len(prompt))
    speculation = importlib.import_module("transformers_neuronx.speculation")
    recorder = _Recorder(target.module, prompt, k, room, stop_ids, "length" if room == max_tokens else "context", clock)
    failure: ModelError | None = None
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)  # the loop draws from torch's global generator, given back afterwards
        try:
            generator = speculation.SpeculativeGenerator(draft.module, recorder, k, acceptor)
            generator.acceptor = recorder.wrap(generator.acceptor)
            # Stop ids are the recorder's business: the loop crashes on more than one.
            generator.sample(
                torch.tensor([list(prompt)], dtype=torch.int64),
                sequence_length=len(prompt) + room,
                streamer=recorder,
            )
        except _Ended:
            pass
        except ModelError as error:
            failure = error
        except Exception as error:
            failure = _upstream_failed(f"it raised {type(error).__name__}: {error}")
    yield from recorder.rounds
    if failure is not None:
        raise failure


class _Ended(Exception):  # noqa: N818 - not an error: the way out of upstream's loop
    pass


class _Recorder:
    """Stands between upstream's loop and its target, acceptor and streamer, and notes the rounds."""

    def __init__(
        self,
        target: Any,
        prompt: Ids[int],
        k: int,
        room: int,
        stop_ids: frozenset[int],
        full: FinishReason,
        clock: Callable[[], float],
    ) -> None:
        self.rounds: list[Round] = []
        self._target, self._k, self._stop_ids, self._full, self._clock = target, k, stop_ids, full, clock
        self._room, self._prompt_pending = room, True
        self._prefill_scores: Any = None
        self._begin = self._verify_begin = self._verify_end = self._judge_end = clock()

    # as the target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._prefill_scores = self._timed(self._target, *args, **kwargs)
        return self._prefill_scores

    def speculative_forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._timed(self._target.speculative_forward, *args, **kwargs)

    def _timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._verify_begin = self._clock()
        result = function(*args, **kwargs)
        self._verify_end = self._clock()
        return result

    # as the streamer: the prompt, the first token, then a row of every round (noted by the acceptor already)

    def put(self, token_ids: Any) -> None:
        if self._prompt_pending:
            self._prompt_pending = False
        elif not self.rounds:
            self._judge_end = self._clock()
            probs = _softmax(self._prefill_scores)[0]
            first = int(token_ids.flatten()[0])
            self._note((), FinalToken(first, "target", float(probs[first]), ()))

    def end(self) -> None:
        pass

    # as the acceptor

    def wrap(self, acceptor: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
        import torch

        def judge(draft_ids: Any, draft_scores: Any, target_scores: Any) -> Any:
            row = acceptor(draft_ids, draft_scores, target_scores).reshape(1, -1).to(torch.int64)
            # The loop takes the acceptor's row zero-padded to k; a shorter one would end it.
            row = torch.nn.functional.pad(row, (0, self._k - row.shape[1]))
            self._judge_end = self._clock()
            self._judged(row[0].tolist(), draft_ids[0].tolist(), _softmax(draft_scores[0]), _softmax(target_scores[0]))
            return row

        return judge

    def _judged(self, row: list[int], drafted: list[int], draft_probs: Any, target_probs: Any) -> None:
        emitted = sum(token != 0 for token in row)  # the loop's own count
        # A token 0 that was meant cannot be told from padding by the loop: it drops it, and its cache is corrupt from
        # then on. A final token that repeats the draft in its place is what is left of a corrected 0.
        if emitted == 0 or 0 in row[:emitted] or (emitted < self._k and row[emitted - 1] == drafted[emitted - 1]):
            raise _upstream_failed("its acceptor emitted token 0, which it takes for padding")
        accepted = emitted - 1
        tokens = []
        for i, token in enumerate(drafted):
            state: State = "accepted" if i < accepted else "rejected" if i == accepted else "discarded"
            q, p = float(draft_probs[i, token]), float(target_probs[i, token])
            tokens.append(DraftedToken(token, state, q, p, None, None, (), ()))
        provenance: Provenance = "bonus" if accepted == len(drafted) else "corrected"
        final = FinalToken(row[accepted], provenance, float(target_probs[accepted, row[accepted]]), ())
        self._note(tuple(tokens), final)

    def _note(self, drafted: tuple[DraftedToken, ...], final: FinalToken) -> None:
        """Append the round, cut where the answer ends, and leave the loop there."""
        accepted = [token.id for token in drafted if token.state == "accepted"]
        stop = next((i for i, token in enumerate(accepted) if token in self._stop_ids), None)
        keep = len(accepted) + 1 if stop is None else stop + 1
        keep = min(keep, self._room)
        cut = keep <= len(accepted)
        if cut:
            drafted = tuple(t if i < keep else replace(t, state="discarded") for i, t in enumerate(drafted))
        last = accepted[keep - 1] if cut else final.id
        self._room -= keep
        finish: FinishReason | None = "stop" if last in self._stop_ids else self._full if self._room == 0 else None
        self.rounds.append(
            Round(
                index=len(self.rounds),
                arm="speculative",
                drafted=drafted,
                final=None if cut else final,
                draft_seconds=self._verify_begin - self._begin,
                verify_seconds=self._verify_end - self._verify_begin,
                host_seconds=self._judge_end - self._verify_end,
                finish_reason=finish,
            )
        )
        self._begin = self._clock()  # what was noted above is not the loop's time
        if finish is not None:
            raise _Ended


def _softmax(scores: Any) -> Any:
    import torch

    return torch.softmax(scores.to(torch.float64), dim=-1)


def _upstream_failed(what: str) -> ModelError:
    return ModelError(f"Upstream's loop cannot go on: {what}; use this playground's own loop.")


# --- before minutes of compiling: what can be known ---


def _host(num_cores: int | None) -> planner.Instance:
    """This machine as an instance of the planner. Raises PairError where it has no Neuron device."""
    name = _product_name()
    if name.startswith("trn2"):
        return planner.instance_named(name)  # refused by the plan, with its reason
    if num_cores is None:
        num_cores = CORES_PER_DEVICE * len(_devices())
    if num_cores == 0 and name in planner.INSTANCES:
        raise PairError(
            f"This {name} shows no /dev/neuron* device, so its driver is not loaded; install aws-neuronx-dkms and run "
            "`sudo modprobe neuron`."
        )
    if num_cores == 0:
        raise PairError(
            "There is no Neuron device (/dev/neuron*) on this machine; run on an Inf2 or Trn1 instance, or use another "
            "--backend."
        )
    known = planner.INSTANCES.get(name) or next(
        (instance for instance in planner.INSTANCES.values() if instance.num_cores == num_cores), None
    )
    if known is not None and known.num_cores == num_cores:
        return known
    # A container may be given some of the devices only.
    degrees = known.tp_degrees if known is not None else (1, 2, 8, 16, 32)
    return planner.Instance(
        f"this machine ({num_cores} NeuronCores)", num_cores, tuple(d for d in degrees if d <= num_cores)
    )


def _product_name() -> str:
    """The instance type, as EC2 tells it to the kernel; empty elsewhere."""
    try:
        return Path("/sys/devices/virtual/dmi/id/product_name").read_text(encoding="ascii").strip().lower()
    except (OSError, ValueError):
        return ""


def _devices() -> list[Path]:
    return [path for path in Path("/dev").glob("neuron*") if re.fullmatch(r"neuron\d+", path.name)]


def _check_placeholders() -> None:
    """Raises PairError for the empty packages that PyPI has under these names; they install without a word."""
    for package in PACKAGES:
        origin = getattr(_spec(package), "origin", None)
        if origin and origin.endswith(".py") and WRONG_PACKAGE in Path(origin).read_text("utf-8", "replace")[:1000]:
            raise _placeholder(package)


def _check_packages() -> None:
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


def _checkpoint(directory: Path) -> planner.ModelConfig:
    """The checkpoint's shape. Raises PairError for what the library would load wrong, or only notice late."""
    directory = Path(directory)
    if not directory.is_dir():
        raise PairError(f"There is no model directory {directory}; give the folder of a downloaded checkpoint.")
    raw = read_json(directory / "config.json")
    config = planner.read_config(directory / "config.json")
    if not any((directory / name).exists() for name in WEIGHT_FILES):
        raise PairError(
            f"{directory} holds no weights (model.safetensors or pytorch_model.bin); fetch the model again."
        )
    if raw.get("rope_parameters") and "rope_theta" not in raw:
        raise PairError(
            f"{directory}/config.json was written by transformers 5, and older ones would miss its rope_theta and load the "
            "model wrong; copy rope_theta (and rope_scaling) to its top level, as the original checkpoint has them."
        )
    rope = raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise PairError(
            f"{directory} uses {kind} rope scaling, which transformers-neuronx does not know; choose another."
        )
    if raw.get("head_dim") and raw["head_dim"] * config.num_heads != config.hidden_size:
        raise PairError(
            f"{directory} has heads of {raw['head_dim']} where transformers-neuronx takes {config.head_dim} for granted; "
            "choose another model."
        )
    if raw.get("playground", {}).get("kept_ids"):
        raise PairError(
            f"{directory} is a draft with a trimmed vocabulary, made for the openvino backend; choose a plain Llama draft."
        )
    return config


def _checked_windows(windows: Ids[int], n_positions: int) -> tuple[int, ...]:
    if not windows or min(windows) < 2 or max(windows) > n_positions:
        raise PairError(
            f"Windows {', '.join(map(str, windows)) or '(none)'} cannot be compiled; choose one or more of 2 to {n_positions}."
        )
    return tuple(sorted(set(windows)))  # the library searches the list by bisection


def _check_cores(tp_degree: int) -> bool:
    """Whether the environment names the cores already. Raises PairError where it cannot work."""
    if _claimed_cores is not None and _claimed_cores != tp_degree:
        raise PairError(
            f"This process has initialised {_claimed_cores} NeuronCores, and a pair on {tp_degree} would overlap them in "
            f"part (`nec_comm is already init'd`); restart the playground with --tp-degree {tp_degree}."
        )
    # The first has precedence.
    for variable, count in (("NEURON_RT_VISIBLE_CORES", _count_cores), ("NEURON_RT_NUM_CORES", int)):
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        try:
            visible = count(value)
        except ValueError:
            raise PairError(
                f"{variable}={value} names no cores; unset it, or write it like 0-{tp_degree - 1}."
            ) from None
        if visible < tp_degree:
            raise PairError(
                f"{variable}={value} gives this process {visible} NeuronCores and tp_degree is {tp_degree}; unset it, or "
                "give it as many."
            )
        return True
    return False


def _count_cores(value: str) -> int:
    """Cores in `0-7`, `3`, or `0,2,4-5`."""
    cores: set[int] = set()
    for part in value.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return len(cores)


def _import_library(tp_degree: int) -> Any:
    """transformers_neuronx, the cores named in the environment before it is imported. Raises PairError."""
    named = _check_cores(tp_degree)
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


# --- loading and compiling ---


def _load(library: Any, directory: Path, name: str, settings: _Settings, artifacts: Path | None) -> Any:
    """The library's model, on its cores. Raises PairError."""
    global _claimed_cores
    raw = read_json(directory / "config.json")
    known = _known_artifacts(library, raw, settings, artifacts)
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
        _claimed_cores = settings.tp_degree
        module.to_neuron()
        if artifacts is not None and not known:
            _save_artifacts(library, raw, settings, module, artifacts)
    except PairError:
        raise
    except Exception as error:
        raise _load_failed(name, settings, artifacts if known else None, error) from error
    log.info("Loaded %s in %.0f s.", name, time.perf_counter() - begin)
    return module


def _load_failed(name: str, settings: _Settings, artifacts: Path | None, error: Exception) -> PairError:
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


def _pass_failed(name: str, error: Exception) -> ModelError:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ModelError(
        f"A pass of {name} failed on the Neuron device ({said}); restart the playground, and see neuron-top and dmesg "
        "if it happens again."
    )


def _artifact_settings(library: Any, raw: dict[str, Any], settings: _Settings) -> dict[str, Any]:
    shape = {key: value for key, value in raw.items() if isinstance(value, int | float | str | bool | dict | None)}
    return {
        "library": str(getattr(library, "__version__", "")),
        "dtype": settings.dtype,
        "tp_degree": settings.tp_degree,
        "n_positions": settings.n_positions,
        "prefill": settings.prefill,
        "windows": list(settings.windows),
        "compiler_flags": os.environ.get("NEURON_CC_FLAGS", ""),
        "config": shape,
    }


def _check_artifacts(artifacts: Path | None) -> None:
    """Raises PairError for a folder that is not this module's to replace."""
    if artifacts is None or not artifacts.exists():
        return
    names = {path.name for path in artifacts.iterdir()} if artifacts.is_dir() else {"a file"}
    if not names or names & {SETTINGS_FILE, UNFINISHED_FILE}:
        return
    raise PairError(f"{artifacts} holds something else; choose another folder for --neuron-artifacts.")


def _known_artifacts(library: Any, raw: dict[str, Any], settings: _Settings, artifacts: Path | None) -> bool:
    """Whether the folder holds programs compiled for exactly this."""
    if artifacts is None or not (artifacts / SETTINGS_FILE).is_file():
        return False
    try:
        found = json.loads((artifacts / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == _artifact_settings(library, raw, settings))


def _save_artifacts(library: Any, raw: dict[str, Any], settings: _Settings, module: Any, artifacts: Path) -> None:
    """Keep the compiled programs; the settings come last, so that a cut-off folder is not taken for whole."""
    if artifacts.exists():
        shutil.rmtree(artifacts)
    artifacts.mkdir(parents=True)
    (artifacts / UNFINISHED_FILE).touch()
    module.save(str(artifacts))
    (artifacts / SETTINGS_FILE).write_text(
        json.dumps(_artifact_settings(library, raw, settings), indent=2), encoding="utf-8"
    )
    (artifacts / UNFINISHED_FILE).unlink()
