"""The tokenizer in a GGUF's metadata as a `tokenizer.json`: byte-level BPE, and SentencePiece's BPE.

A `tokenizer.json` beside the file is the model's own only if its tokens are the file's, id by id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import PairError

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
_LLAMA3 = {"llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"}
"""Names that converters gave Llama 3's way to split text."""
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPACE = "\u2581"

Field = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class BuiltTokenizer:
    """json: `tokenizer.json`'s text. adds_bos: whether the kind begins a text with BOS where the file does not say.
    beside: whether the `tokenizer.json` beside has these tokens (None: there is none). notes: what a person should
    know."""

    json: str
    adds_bos: bool
    beside: bool | None
    notes: tuple[str, ...] = ()


def is_spm(field: Field) -> bool:
    return bool(field("tokenizer.ggml.model") == "llama")


def build(path: Path, tokens: list[str], field: Field) -> BuiltTokenizer:
    """The tokenizer of the GGUF at `path`. Raises PairError where it cannot be known."""
    kind = field("tokenizer.ggml.model")
    types = np.asarray(field("tokenizer.ggml.token_type", np.ones(len(tokens))), np.int64)
    if len(types) != len(tokens):
        raise PairError(
            f"{path.name} holds a damaged tokenizer ({len(types)} types of {len(tokens)} tokens); fetch it again."
        )
    split = _split(path, tokens, field) if kind == "gpt2" else None
    adds_bos = is_spm(field) or split in _LLAMA3
    beside, fault = _beside(path, tokens, types, field)
    if beside is not None:
        return BuiltTokenizer(beside, adds_bos, True)
    other = None if fault is None else False
    note: tuple[str, ...] = (
        ()
        if fault is None
        else (f"The tokenizer.json beside {path.name} is another model's ({fault}); the file's own is used.",)
    )
    remedy = "put the model's own tokenizer.json beside it"
    if fault is not None:
        remedy = f"put the model's own tokenizer.json beside it (the one there is another model's: {fault})"
    if is_spm(field):
        return BuiltTokenizer(_spm(path, tokens, types, field, remedy), adds_bos, other, note)
    if kind != "gpt2":
        raise PairError(f"{path.name} has a {kind} tokenizer, which a GGUF does not hold whole; {remedy}.")
    if split is None:
        raise PairError(
            f"{path.name} splits text the {field('tokenizer.ggml.pre')} way, which is not known here; {remedy}."
        )
    if field("tokenizer.ggml.pre", None) in (None, "default") and split == "gpt-2":
        note += (
            f"{path.name} does not say how text is split into words, so it is split as GPT-2 does; if that is wrong, "
            f"{remedy}, or convert the model to GGUF again.",
        )
    return BuiltTokenizer(_byte_level(path, tokens, types, split, field), adds_bos, other, note)


def _split(path: Path, tokens: list[str], field: Field) -> str | None:
    """The way text is split into words: smollm, gpt-2 or llama-bpe; None for one that is not known here."""
    kind = field("tokenizer.ggml.pre", None)
    if kind in _LLAMA3:
        return "llama-bpe"
    if kind in (None, "default") and "<|begin_of_text|>" in tokens and len(tokens) >= 128256:
        return "llama-bpe"  # converted before files said so: Llama 3 is known by its specials
    if kind in (None, "default", "gpt-2"):
        return "gpt-2"
    return "smollm" if kind == "smollm" else None


def _byte_level(path: Path, tokens: list[str], types: Any, split: str, field: Field) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    splitter: Any = words
    if split == "smollm":
        splitter = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    elif split == "llama-bpe":
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3_WORDS), "isolated"), whole])
    merges = [
        (left, right) for left, _, right in (str(merge).partition(" ") for merge in field("tokenizer.ggml.merges"))
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split == "llama-bpe"))
    except Exception as error:  # the library raises bare Exception
        raise PairError(f"{path.name} holds a damaged tokenizer ({error}); fetch it again.") from error
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    _add(tokenizer, tokens, types, (_CONTROL,))
    return str(tokenizer.to_str())


def _spm(path: Path, tokens: list[str], types: Any, field: Field, remedy: str) -> str:
    """SentencePiece's BPE: of all pairs that make a token, the token of the highest score is made first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = np.asarray(field("tokenizer.ggml.scores", ()), np.float64)
    normal = ~np.isin(types, (_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE))
    # converters that have no scores write the same for every token
    if len(scores) != len(tokens) or np.unique(scores[normal]).size <= normal.sum() // 2:
        raise PairError(f"{path.name} holds no scores of its tokens, so they cannot be merged; {remedy}.")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    ranked = []
    for token, index in vocabulary.items():
        if types[index] in (_CONTROL, _UNKNOWN):
            continue
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        ranked += [(-scores[index], -len(left), -len(right), (left, right)) for left, right in pairs]
    ranked.sort(key=lambda entry: entry[:3])
    unknown = next((tokens[i] for i in np.flatnonzero(types == _UNKNOWN)), "<unk>" if "<unk>" in vocabulary else None)
    try:
        model = models.BPE(
            vocabulary, [entry[3] for entry in ranked], unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    except Exception as error:  # the library raises bare Exception
        raise PairError(f"{path.name} holds a damaged tokenizer ({error}); fetch it again.") from error
    tokenizer = Tokenizer(model)
    prefixed = bool(field("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefixed else spaces
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    _add(tokenizer, tokens, types, (_CONTROL, _UNKNOWN))
    return str(tokenizer.to_str())


def _add(tokenizer: Any, tokens: list[str], types: Any, special: tuple[int, ...]) -> None:
    from tokenizers import AddedToken

    for kinds, is_special in ((special, True), ((_USER_DEFINED,), False)):
        chosen = [tokens[i] for i in np.flatnonzero(np.isin(types, kinds)) if tokens[i]]
        added = [AddedToken(token, special=is_special, normalized=False) for token in chosen]
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)(added)


def _beside(path: Path, tokens: list[str], types: Any, field: Field) -> tuple[str | None, str | None]:
    """The text of the `tokenizer.json` in the file's folder, if it is this model's; else what tells that it is not."""
    from tokenizers import Tokenizer

    file = path.parent / "tokenizer.json"
    if not file.is_file():
        return None, None
    try:
        text = file.read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        return None, f"it is damaged: {str(error)[:80]}"
    for index, token in enumerate(tokens):
        there = tokenizer.id_to_token(index)
        # what pads a vocabulary has a name in one file and none in the other
        if there != token and not (there is None and types[index] in (_UNUSED, _CONTROL, _USER_DEFINED)):
            return None, f"its token {index} is {there!r}, the file's {token!r}"
    beyond = tokenizer.id_to_token(len(tokens))
    if beyond is not None:
        return None, f"it knows a token {len(tokens)}, {beyond!r}, and the file does not"
    merges = field("tokenizer.ggml.merges", None)
    if merges is not None and field("tokenizer.ggml.model") == "gpt2":
        import json

        written = json.loads(text)["model"].get("merges") or []
        theirs = [merge if isinstance(merge, str) else " ".join(merge) for merge in written]
        if theirs != [str(merge) for merge in merges]:
            return None, "it merges in another order"
    return text, None
