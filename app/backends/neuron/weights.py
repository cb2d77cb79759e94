"""The weights of a checkpoint, as far as they can be judged without reading them: the index, the shards, their headers.

Both libraries read a file only when they need it, after minutes of compiling, and neither notices a tensor it has no
place for. They take the first they find of: model.safetensors, its index, a pytorch_model.bin folder, file or index.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from app.backends.checkpoints.config import read_json
from app.errors import PairError
from app.neuron.catalogue import ModelConfig

READABLE_TYPES = ("F32", "F16", "BF16", "F64")
COMPUTED_ANEW = ("rotary_emb.inv_freq",)  # buffers that old checkpoints store and nobody reads
LONGEST_HEADER = 100 * 10**6

Shape = tuple[int, ...]


def check_weights(directory: Path, model: ModelConfig) -> None:
    """Raises PairError for weights that are absent, cut off, of a type that is not read, or not those of `model`."""
    stored = _stored(directory)
    if stored is None:  # one pickle: its names cannot be read without torch
        return
    wanted = expected_tensors(model)
    names = {_with_prefix(name): name for name in stored}
    for name, shape in wanted.items():
        if name not in names:
            raise PairError(f"{directory} has no tensor {name}; fetch the model again.")
        tensor = stored[names[name]]
        if tensor is not None and tensor != shape:
            raise PairError(
                f"{name} in {directory} has the shape {list(tensor)} where config.json says {list(shape)}; "
                "fetch both again."
            )
    allowed = {*wanted, "lm_head.weight"}
    extra = sorted(name for name in names if name not in allowed and not name.endswith(COMPUTED_ANEW))
    if extra:
        raise PairError(
            f"{directory} has a tensor {extra[0]}, which no plain Llama has and which would be left out "
            "of every pass; choose "
            "another model."
        )


def expected_tensors(model: ModelConfig) -> dict[str, Shape]:
    """The tensors of a Llama of this shape, by name."""
    hidden, inner = model.hidden_size, model.intermediate_size
    heads, kv_heads = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    layer = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (kv_heads, hidden),
        "self_attn.v_proj": (kv_heads, hidden),
        "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    tensors: dict[str, Shape] = {
        "model.embed_tokens.weight": (model.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not model.tied:
        tensors["lm_head.weight"] = (model.vocab_size, hidden)
    for index in range(model.num_layers):
        tensors |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return tensors


def _with_prefix(name: str) -> str:
    """Under the name a whole model has it: some checkpoints hold its inner part only, without the prefix."""
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def _stored(directory: Path) -> dict[str, Shape | None] | None:
    """Tensor -> shape, None where only its name is known; None for a checkpoint that cannot be looked into."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return dict(_header(single))
    if index.is_file():
        return _sharded(index)
    pickled = directory / "pytorch_model.bin"
    if pickled.is_dir():
        return _split(pickled)
    if pickled.is_file():
        _check_pickle(pickled)
        return None
    index = directory / "pytorch_model.bin.index.json"
    if index.is_file():
        names = _weight_map(index)
        for file in sorted(set(names.values())):
            _check_pickle(directory / file)
        return dict.fromkeys(names)
    raise PairError(f"{directory} holds no weights (model.safetensors or pytorch_model.bin); fetch the model again.")


def _sharded(index: Path) -> dict[str, Shape | None]:
    names = _weight_map(index)
    headers = {file: _header(index.parent / file) for file in sorted(set(names.values()))}
    for name, file in names.items():
        if name not in headers[file]:
            raise PairError(
                f"{index.parent / file} lacks {name}, which {index.name} says it holds; fetch the model again."
            )
    return {name: headers[file][name] for name, file in names.items()}


def _split(folder: Path) -> dict[str, Shape | None]:
    """A folder of one file a tensor, as `save_pretrained_split` writes it."""
    names = read_json(folder / "key_to_filename.json")
    for file in names.values():
        _check_pickle(folder / str(file))
    return dict.fromkeys(names)


def _weight_map(index: Path) -> dict[str, str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise PairError(f"{index} lists no weights; fetch the model again.")
    return names


def _header(file: Path) -> dict[str, Shape]:
    """Tensor -> shape in a .safetensors file: eight bytes of length, that much JSON, then the data. Raises
    PairError."""
    damaged = PairError(f"{file} is damaged or cut off; fetch it again.")
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > LONGEST_HEADER:
                raise damaged
            header: dict[str, dict[str, Any]] = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size < 8 + length + end:
            raise damaged
        types = {name: entry["dtype"] for name, entry in header.items()}
        shapes = {name: tuple(int(size) for size in entry["shape"]) for name, entry in header.items()}
    except FileNotFoundError:
        raise PairError(f"{file} is missing; fetch the model again.") from None
    except OSError as error:
        raise PairError(f"{file} cannot be read ({error.strerror}); fetch it again.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None
    for name, kind in types.items():
        if kind not in READABLE_TYPES:
            raise PairError(
                f"{file} stores {name} as {kind}, which would be read as other numbers or not at all; choose "
                "a checkpoint in "
                f"one of {', '.join(READABLE_TYPES)}."
            )
    return shapes


def _check_pickle(file: Path) -> None:
    """What torch.save writes is a zip archive, its directory at the end, or, of old, a bare pickle. Raises
    PairError."""
    if not file.is_file():
        raise PairError(f"{file} is missing; fetch the model again.")
    with file.open("rb") as opened:
        start = opened.read(2)
    if not (zipfile.is_zipfile(file) or start[:1] == b"\x80"):
        raise PairError(f"{file} is damaged or cut off; fetch it again.")
