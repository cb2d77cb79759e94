"""The pair as files that the peers can read: both models as Hugging Face directories and as GGUFs.

openvino-genai's GGUF reader rounds the zero points of the shipped Q4_1, which changes the text; it gets the target as
Q8_0, which holds the same weights to half a percent.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.backends.checkpoints.cache import filled, fingerprint
from app.backends.checkpoints.checkpoint import Checkpoint, SafetensorsCheckpoint
from app.backends.checkpoints.config import read_config
from app.backends.checkpoints.gguf_file import GgufCheckpoint, _gguf_name, sidecar
from app.distill.pack import config_json, export
from app.pairs.embedded import EMBEDDED_PLAIN_DRAFT, embedded_target
from app.pairs.options import PairOptions
from app.places import cache_dir

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class PeerFiles:
    """target_gguf is the file as it was shipped; the others hold the same weights. None: the pair has no such file."""

    target_gguf: Path | None
    target: Path | None
    draft: Path | None
    draft_gguf: Path | None
    target_q8: Path | None


def of(pair: PairOptions) -> PeerFiles:
    """The pair's own files, those of the embedded pair in every form. Raises PairError."""
    if pair.target is None:
        return write()
    paths = (pair.target, pair.draft)
    target, draft = (path if path is not None and path.is_dir() else None for path in paths)
    target_gguf, draft_gguf = (path if path is not None and path.is_file() else None for path in paths)
    return PeerFiles(target_gguf, target, draft, draft_gguf, target_gguf)


def write(draft: Path = EMBEDDED_PLAIN_DRAFT) -> PeerFiles:
    """The embedded pair's files, made once and kept beside the other things made from models."""
    gguf = embedded_target()
    key = fingerprint([gguf, draft / "model.safetensors"], Path(__file__).read_text(encoding="utf-8"))

    def fill(folder: Path) -> None:
        metadata = sidecar(gguf, cache_dir())
        target = GgufCheckpoint(gguf, read_config(metadata))
        export(SafetensorsCheckpoint(draft), target, folder / "draft")
        _hugging_face(target, folder / "target")
        for name in TOKENIZER_FILES:
            for model in ("target", "draft"):
                shutil.copy(metadata / name, folder / model / name)
        (folder / "draft-gguf").mkdir()
        _gguf(SafetensorsCheckpoint(folder / "draft"), gguf, folder / "draft-gguf" / "draft.gguf", "F16")
        _gguf(target, gguf, folder / "target-q8.gguf", "Q8_0")

    folder = filled(cache_dir() / f"peers-{key}", fill)
    return PeerFiles(
        gguf, folder / "target", folder / "draft", folder / "draft-gguf" / "draft.gguf", folder / "target-q8.gguf"
    )


def _names(num_layers: int) -> list[str]:
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    layers = [f"model.layers.{i}.{part}.weight" for i in range(num_layers) for part in parts]
    return ["model.embed_tokens.weight", *layers, "model.norm.weight"]


def _hugging_face(target: GgufCheckpoint, folder: Path) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    config = config_json(target.config, target.config.num_layers, "", None)
    config["tie_word_embeddings"] = target.config.tied
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    names = _names(target.config.num_layers) + ([] if target.config.tied else ["lm_head.weight"])
    halves = {name: np.ascontiguousarray(target.tensor(name), np.float16) for name in names}
    save_file(halves, str(folder / "model.safetensors"), {"format": "pt"})


def _gguf(model: Checkpoint, like: Path, path: Path, kind: str) -> None:
    """`model` as a GGUF with matrices of type `kind`, and the tokenizer and the sizes of `like`; q and k in GGUF's
    interleaved rotary order."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import quantize

    config, matrices = model.config, GGMLQuantizationType[kind]
    writer: Any = GGUFWriter(path, "llama")
    for name, field in GGUFReader(like).fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "llama.block_count", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_block_count(config.num_layers)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    for name in [*_names(config.num_layers), *([] if config.tied else ["lm_head.weight"])]:
        values = model.tensor(name)
        count = heads.get(name.split(".")[-2])
        if count is not None:
            halves = values.reshape(count, 2, -1, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        if values.ndim == 1:
            writer.add_tensor(_gguf_name(name), values)
        else:
            writer.add_tensor(_gguf_name(name), quantize(values, matrices), raw_dtype=matrices)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
