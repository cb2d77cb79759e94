"""`pairs`: the pairs that are known to fit, what they need and what to expect; or which draft fits a target."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from app.places import COMMAND

if TYPE_CHECKING:
    from app.backends.checkpoints.config import LlamaConfig
    from app.pairs.tokenizer import TextTokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for",
        dest="target",
        type=Path,
        metavar="TARGET",
        help="which draft fits this model: a .gguf file, a directory, or an id or link of the Hub (its "
        "configuration alone "
        "is fetched)",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a target on the Hub")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(options: argparse.Namespace) -> int:
    if options.target is None:
        _list(options.json)
    else:
        _advise(options.target, options.revision, options.json)
    return 0


def _list(as_json: bool) -> None:
    from app.pairs import catalogue, memory

    free, pace = memory.free_memory(), catalogue.bandwidth()
    rows = [catalogue.told(pair, free, pace) for pair in catalogue.pairs()]
    if as_json:
        print(json.dumps({"free_bytes": free, "bandwidth": pace, "acceptance": catalogue.ACCEPTANCE, "pairs": rows}))
        return
    for row in rows:
        gated = ", gated" if row["gated"] else ""
        print(f"{row['target']} + {row['draft']}  ({row['licence']}{gated})")
        sizes = ", ".join(f"{dtype} {size / 1e9:.1f} GB" for dtype, size in row["bytes"].items())
        print(f"    {sizes}; {row['fits']}")
        print(
            f"    expected here: {row['ms_alone']:.0f} ms a token alone, {row['ms_together']:.0f} ms "
            f"with k = {row['k']} "
            f"({row['gain']:.2f} times)"
        )
    print(
        f"Expected: the bytes of int8 weights over {pace / 1e9:.0f} GB/s, measured here on one "
        f"thread, and {catalogue.ACCEPTANCE:.0%} "
        f"of drafted tokens kept; no measurement of the pair. Use one: {COMMAND} --target ID --draft "
        "ID --n-positions 4096"
    )


def _advise(target: Path, revision: str | None, as_json: bool) -> None:
    from app.pairs import catalogue

    name, config, tokenizer = _described(target, revision)
    family, parameters = _family(tokenizer), config.num_parameters / 1e6
    drafts = catalogue.drafts_for(family, parameters) if family else []
    rows = []
    for draft in drafts:
        whole = catalogue.KnownModel(name, draft.family, parameters, config.num_layers, 0, config.n_positions, "")
        pair = catalogue.KnownPair(whole, draft)
        rows.append({**dataclasses.asdict(draft), "ratio": pair.cost_ratio, "k": pair.k, "gain": pair.gain})
    if as_json:
        print(json.dumps({"target": name, "family": family, "parameters": parameters, "drafts": rows}))
        return
    known = f"its tokens are those of the family {family}" if family else "its tokens are of no family in the catalogue"
    print(f"{name}: {parameters:,.0f} million parameters, {tokenizer.vocab_size} tokens; {known}.")
    for row in rows:
        print(
            f"  {row['id']}: 1/{1 / row['ratio']:.0f} of its size, {row['gain']:.2f} times expected with "
            f"k = {row['k']} "
            f"({row['licence']})"
        )
    if not rows:
        print("  No model of the catalogue is of its family and at most a third of its size.")
    print("  lookup: no model, nothing to fetch; pays on texts that repeat themselves (--drafter lookup)")
    print(
        f"  distilled: a draft made for this target, {COMMAND} distill --help; pays where no small "
        "model of the family is"
    )
    print(
        f"Expected with {catalogue.ACCEPTANCE:.0%} of drafted tokens kept; tokens are compared id by "
        "id when a pair is loaded."
    )


def _described(target: Path, revision: str | None) -> tuple[str, LlamaConfig, TextTokenizer]:
    """A model's name, shape and tokenizer, of one on the Hub without its weights where it is no GGUF."""
    from app.backends.checkpoints import hub_models
    from app.backends.checkpoints.config import read_config
    from app.backends.checkpoints.model_files import ModelFiles
    from app.pairs import hub
    from app.pairs.tokenizer import TextTokenizer
    from app.places import cache_dir

    named = hub_models.reference(target, revision)
    if named is None:
        files = ModelFiles(target, cache_dir())
        return files.name, files.config, files.tokenizer()
    snapshot = hub.snapshot(named)
    snapshot.fetch(weights=snapshot.is_gguf, progress=hub.Shown())
    if snapshot.is_gguf:
        files = ModelFiles(snapshot.path, cache_dir())
        return files.name, files.config, files.tokenizer()
    config = read_config(snapshot.directory)
    return named.name, config, TextTokenizer(snapshot.directory, config.stop_ids)


def _family(tokenizer: TextTokenizer) -> str | None:
    """The family whose tokens these are, told by a few that all its members share."""
    size, piece = tokenizer.vocab_size, tokenizer.piece
    if 128_000 <= size <= 128_512 and piece(0) == b"!" and piece(220) == b" ":
        return "llama-3"
    if 32_000 <= size <= 32_064 and piece(29_871) == b" " and piece(259) == b"  ":
        return "llama-2"
    if size == 49_152 and piece(1) == b"<|im_start|>":
        return "smollm2"
    return None
