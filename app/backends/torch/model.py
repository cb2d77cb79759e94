"""Llama pairs on PyTorch: CUDA, Apple's MPS, or the processor. transformers computes, the weights are ours to read.

Any checkpoint the other backends read (GGUF, safetensors, a draft without embeddings) is read here too, by the same
readers, tensor by tensor, and handed to transformers' `LlamaForCausalLM`; from the Hugging Face Hub nothing but
configurations, tokenizers and safetensors is fetched, and none of its code is ever run. A row's sums may depend on how
many rows were scored with it, so bit identity is not promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Ids
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import set_module_tensor_to_device
from numpy.typing import NDArray
from transformers import DynamicCache, LlamaForCausalLM
from transformers import LlamaConfig as HfConfig

from app.backends.checkpoints.checkpoint import Checkpoint
from app.backends.checkpoints.config import LlamaConfig
from app.engine.model import Logits
from app.errors import ModelError, PairError

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
PREFILL = 1024  # tokens scored at once while a prompt is read: bounds the activations' memory
SPARE = 0.85  # of a device's free memory is for weights, the rest for caches and activations
FAULTS = (RuntimeError, ValueError)  # what torch raises; its OutOfMemoryError and NotImplementedError are RuntimeErrors


def choose_device(name: str | None) -> torch.device:
    """The device of that name (cuda, cuda:1, mps, cpu), or the fastest there is. Raises PairError."""
    if name is None:
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        there += ["mps"] if torch.backends.mps.is_available() else []
        reason = str(error).splitlines()[0].rstrip(".")
        raise PairError(f"PyTorch cannot use the device {name!r} ({reason}); choose {' or '.join(there)}.") from None
    if device.type not in ("cuda", "mps", "cpu"):
        raise PairError(f"The device {name!r} runs no models; choose cuda, mps or cpu.")
    return device


def choose_dtype(name: str | None, device: torch.device) -> str:
    """The precision asked for, or bf16 on an accelerator and f32 on the processor. Raises PairError."""
    if name is None:
        return "f32" if device.type == "cpu" else "bf16"
    if name not in DTYPES:
        raise PairError(f"The torch backend has no precision {name!r}; choose one of {', '.join(DTYPES)}.")
    return name


def use_threads(count: int | None) -> None:
    """Have the processor's passes use `count` threads (None: torch's choice, its cores)."""
    if count is not None:
        torch.set_num_threads(count)


def free_memory(device: torch.device) -> int | None:
    """Bytes free on CUDA devices, all of them for plain `cuda`; None where the processor's memory is what counts."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what a pair before this one left
    devices = range(torch.cuda.device_count()) if device.index is None else [device.index]
    return sum(int(torch.cuda.mem_get_info(index)[0]) for index in devices)


def fetch(repository: str, revision: str | None) -> Path:
    """The files of a Hub repository, in the Hub's own cache; HF_TOKEN and HF_HUB_OFFLINE are honoured.

    Raises PairError.
    """
    from huggingface_hub import errors, snapshot_download

    at = repository if revision is None else f"{repository} at revision {revision}"
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=["*.json", "*.safetensors", "*.jinja"],
                ignore_patterns=["original/*", "consolidated*"],
            )
        )
    except errors.GatedRepoError:
        raise PairError(
            f"{repository} is gated; accept its licence on huggingface.co, then set HF_TOKEN to a token of that account."
        ) from None
    except errors.RepositoryNotFoundError:
        raise PairError(
            f"The Hub has no {repository} that this token may read; check the name, or set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise PairError(f"{repository} has no revision {revision}; check --revision.") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise PairError(
            f"{at} is not in this machine's Hub cache, and the Hub cannot be reached; connect (and unset HF_HUB_OFFLINE), "
            "or name a local directory."
        ) from None
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise PairError(f"{at} cannot be fetched ({reason}); try again.") from error


class TorchModel:
    """Weights on one device, or spread by layers over several; see `app.engine.model.Model`."""

    windows: tuple[int, ...] | None = None
    max_sequences: int | None = None
    bit_identical = False

    def __init__(
        self,
        config: LlamaConfig,
        weights: Checkpoint,
        *,
        name: str,
        device: torch.device,
        dtype: str,
        n_positions: int | None = None,
        kept_ids: NDArray[np.int64] | None = None,
        placement: Mapping[str, Any] | None = None,
    ) -> None:
        """kept_ids: the ids a trimmed output layer covers, [kept_ids]. placement: module -> device, chosen by what is
        free where None. Raises PairError."""
        self.name, self.dtype = name, dtype
        self.vocab_size = config.vocab_size
        self.n_positions = min(n_positions or config.n_positions, config.n_positions)
        self.num_parameters = config.num_parameters
        self.kept_ids = kept_ids
        try:
            self.network, devices = _network(config, weights, device, DTYPES[dtype], placement)
        except FAULTS as error:
            raise _fault(f"{name} cannot be loaded on {device}", error, PairError) from error
        self.device = ", ".join(_device_name(each) for each in devices)
        self.first = devices[0]

    def memory(self) -> int:
        return sum(parameter.nbytes for parameter in self.network.parameters())

    def new_sequence(self, windows: Ids[int] = ()) -> TorchSequence:
        return TorchSequence(self)


class TorchSequence:
    """One KV cache, which grows with its text; see `app.engine.model.Sequence`."""

    def __init__(self, model: TorchModel) -> None:
        self._model = model
        self._cache = DynamicCache()

    @property
    def length(self) -> int:
        return int(self._cache.get_seq_length())

    def forward(self, token_ids: Ids[int], num_logits: int) -> Logits:
        count = len(token_ids)
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= self._model.n_positions, (self.length, count, self._model.n_positions)
        while count - num_logits >= PREFILL:
            self._pass(token_ids[:PREFILL], 1)
            token_ids, count = token_ids[PREFILL:], count - PREFILL
        return self._pass(token_ids, num_logits)

    def _pass(self, token_ids: Ids[int], num_logits: int) -> Logits:
        model = self._model
        try:
            with torch.inference_mode():
                ids = torch.tensor([list(token_ids)], device=model.first)
                answer = model.network(
                    input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=num_logits
                )
                logits: Logits = answer.logits[0].float().cpu().numpy()  # waits for the device
        except FAULTS as error:
            raise _fault(f"A pass of {model.name} failed", error, ModelError) from error
        return logits

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        if length < self.length:
            self._cache.crop(length - self.length)

    def close(self) -> None:
        self._cache = DynamicCache()


def _network(
    config: LlamaConfig,
    weights: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    placement: Mapping[str, Any] | None,
) -> tuple[Any, list[torch.device]]:
    """transformers' module with the checkpoint's values, and the devices it lies on, the first that of its input."""
    tied = config.tied or "lm_head.weight" not in weights
    with torch.device("meta"):
        network = LlamaForCausalLM(
            HfConfig(
                num_hidden_layers=config.num_layers,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                head_dim=config.head_size,
                vocab_size=config.vocab_size,
                max_position_embeddings=config.n_positions,
                rms_norm_eps=config.rms_norm_eps,
                tie_word_embeddings=tied,
                attention_bias="model.layers.0.self_attn.q_proj.bias" in weights,
                mlp_bias="model.layers.0.mlp.up_proj.bias" in weights,
            )
        )
        if config.kept_ids:
            network.lm_head = torch.nn.Linear(config.hidden_size, config.kept_ids, bias=False)
    network.to(dtype).eval()
    if placement is None:
        placement = _placement(network, device, dtype)
    factors = weights.tensor("rope_factors.weight") if "rope_factors.weight" in weights else None
    # in float32 whatever the weights are in: transformers, too, keeps the angles so
    rotary = torch.from_numpy(config.rope_frequencies(factors).astype(np.float32))
    for name in ("inv_freq", "original_inv_freq"):
        network.model.rotary_emb.register_buffer(name, rotary.to(_at("model.rotary_emb", placement)), persistent=False)
    for name, parameter in list(network.named_parameters()):
        # transformers has all of a layer's biases or none
        absent = name.endswith(".bias") and name not in weights
        values = torch.zeros(parameter.shape) if absent else torch.tensor(weights.tensor(name))
        set_module_tensor_to_device(network, name, _at(name, placement), values.to(dtype), dtype)
    if tied:
        network.lm_head.weight = network.model.embed_tokens.weight
    devices = list(dict.fromkeys(placement.values()))
    if len(placement) > 1:  # what lies in the processor's memory beside a GPU is moved to it pass by pass
        network = dispatch_model(
            network, dict(placement), main_device=devices[0], skip_keys="past_key_values", force_hooks=True
        )
    return network, [torch.device("cuda", each) if isinstance(each, int) else torch.device(each) for each in devices]


def _placement(network: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Module -> device: one device where the weights fit, else CUDA devices in order and then the processor's memory.

    A device is as accelerate names it: the index of a CUDA device, or its name.
    """
    size = sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize
    if device.type != "cuda" or device.index is not None:
        return {"": str(device)}
    room: dict[int | str, int] = {
        index: int(SPARE * torch.cuda.mem_get_info(index)[0]) for index in range(torch.cuda.device_count())
    }
    emptiest = max(room, key=room.__getitem__)
    if size <= room[emptiest]:
        return {"": emptiest}
    return spread(network, dtype, {**room, "cpu": 2**60})


def spread(network: Any, dtype: torch.dtype, room: Mapping[int | str, int]) -> dict[str, Any]:
    """Module -> device by bytes of room on each, whole layers to a device, in the order of `room`."""
    placed: dict[str, Any] = infer_auto_device_map(
        network, max_memory=dict(room), no_split_module_classes=["LlamaDecoderLayer"], dtype=dtype
    )
    return placed


def _at(name: str, placement: Mapping[str, Any]) -> Any:
    """Where the module or tensor of that name goes."""
    while name not in placement and name:
        name = name.rpartition(".")[0]
    return placement[name]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"


def _fault(what: str, error: Exception, kind: type[PairError] | type[ModelError]) -> PairError | ModelError:
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return kind(
            f"{what}: the device's memory is full; choose a shorter --n-positions, --dtype bf16 or a smaller model."
        )
    reason = (str(error).splitlines() or [""])[0].rstrip(".")
    return kind(f"{what} ({type(error).__name__}: {reason}); try --dtype f32 or --device cpu.")
