"""Text to token ids and back, from a `tokenizer.json` and the chat template beside it: as transformers does it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence as Ids
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from app.errors import PairError, RequestError
from app.pairs.chat_template import ChatTemplate

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPECIALS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_ANSWER = "4c0ffee"  # what a conversation is rendered with, to see what its template writes after an answer


class TextTokenizer:
    """See `app.engine.model.Tokenizer`. notes: what a person should know of it."""

    def __init__(self, directory: Path, stop_ids: Ids[int]) -> None:
        """directory: holds `tokenizer.json`, and `tokenizer_config.json` where there is one. Raises PairError."""
        file = directory / "tokenizer.json"
        if not file.exists():
            raise PairError(f"There is no tokenizer.json in {directory}; {_instead(directory)}.")
        try:
            self._tokenizer = Tokenizer.from_buffer(file.read_bytes())  # `from_file` takes no odd names
            decoder = json.loads(self._tokenizer.to_str())["decoder"]
        except Exception as error:  # the library raises bare Exception
            raise PairError(f"{file} is damaged ({error}); fetch it again.") from error
        self._config = _tokenizer_config(directory)
        self._byte_level = '"ByteLevel"' in json.dumps(decoder)
        self._complete()
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self._special = frozenset(index for index, token in added.items() if token.special)
        self.stop_ids = frozenset(index for index in stop_ids if index >= 0) | self._turn_ends()
        if not self.stop_ids:
            self.stop_ids = self._eos()
        own = self._config.get("playground")
        self.notes: tuple[str, ...] = tuple(map(str, own.get("notes") or ())) if isinstance(own, dict) else ()
        if not self.has_chat_template:
            self.notes += ("This model has no chat template, so the prompt is fed as it is.",)

    def _complete(self) -> None:
        """What transformers adds to a `tokenizer.json` on loading it: tokens that only the configuration names, BOS and
        EOS as it says; and what it takes away: a limit of length."""
        tokenizer, config = self._tokenizer, self._config
        tokenizer.no_truncation()
        tokenizer.no_padding()
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        written = config.get("added_tokens_decoder")
        for _, token in sorted(written.items(), key=_number) if isinstance(written, dict) else ():
            if isinstance(token, dict) and isinstance(token.get("content"), str) and token["content"] not in known:
                flags = {
                    name: bool(token[name])
                    for name in ("single_word", "lstrip", "rstrip", "normalized")
                    if name in token
                }
                tokenizer.add_tokens([AddedToken(token["content"], special=bool(token.get("special")), **flags)])
        tokenizer.encode_special_tokens = bool(config.get("split_special_tokens", False))
        if isinstance(config.get("playground"), dict):
            self._set_ends(config["playground"])

    def _set_ends(self, flags: dict[str, Any]) -> None:
        """Begin a text with BOS and end it with EOS, as a GGUF says; a `tokenizer.json` says it in its post-processor,
        beside which transformers too reads no flag."""
        single: list[str] = ["$A"]
        specials: list[tuple[str, int]] = []
        for name in ("bos", "eos"):
            token = self._config.get(f"{name}_token")
            index = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
            if flags.get(f"add_{name}_token") and index is not None and isinstance(token, str):
                single = [token, *single] if name == "bos" else [*single, token]
                specials.append((token, index))
        self._tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=specials)

    def _turn_ends(self) -> frozenset[int]:
        """The token that the template itself writes after an answer; none where it writes text, or takes no answers."""
        if not self.has_chat_template:
            return frozenset()
        conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}]
        try:
            _, _, after = self._template.render(conversation, add_generation_prompt=False).rpartition(_ANSWER)
            following = self._ids(after.lstrip(), add_special_tokens=False)
        except RequestError:
            return frozenset()
        return frozenset(following[:1]) & frozenset(self._added)

    def _eos(self) -> frozenset[int]:
        """What the tokenizer calls the end, for a model whose configuration names none."""
        eos = self._config.get("eos_token")
        index = self._tokenizer.token_to_id(eos) if isinstance(eos, str) else None
        return frozenset() if index is None else frozenset([index])

    @property
    def vocab_size(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def has_chat_template(self) -> bool:
        return bool(self._config.get("chat_template"))

    def encode(self, text: str) -> list[int]:
        return self._ids(text, add_special_tokens=True)

    def encode_chat(self, messages: Ids[dict[str, str]]) -> list[int]:
        if not self.has_chat_template:
            raise RequestError("This model has no chat template; switch the chat template off.")
        return self._ids(self._template.render(messages), add_special_tokens=False)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        except (TypeError, UnicodeError):  # a surrogate without its other half is no character
            raise RequestError(
                "The text holds half a character (a lone surrogate); remove it, or paste it again."
            ) from None

    def check(self) -> None:
        """Raise PairError for a chat template that cannot be used at all."""
        if not self.has_chat_template:
            return
        try:
            self.encode_chat([{"role": "user", "content": "Hi"}])
        except RequestError as error:
            reason = str(error).removeprefix("The model's chat template refuses this conversation: ")
            reason = reason.partition("; change the conversation")[0]
            raise PairError(
                f"The model's chat template cannot be used ({reason}); correct it in tokenizer_config.json, "
                "or remove it "
                "there, so that prompts are fed as they are."
            ) from None

    @cached_property
    def _template(self) -> ChatTemplate:
        variables = {name: self._config[name] for name in _SPECIALS if isinstance(self._config.get(name), str)}
        return ChatTemplate(self._config["chat_template"], {"bos_token": "", "eos_token": "", **variables})

    def piece(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return b""  # a padded row of the vocabulary
        if self._byte_level:
            table = _bytes_of_characters()
            return b"".join(
                bytes([table[character]]) if character in table else character.encode() for character in token
            )
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return str(token).replace("\u2581", " ").encode()

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def is_added(self, token_id: int) -> bool:
        """Whether the token stands beside the vocabulary that texts are split into: specials, and a model's own
        marks."""
        return token_id in self._added


def _number(item: tuple[str, Any]) -> int:
    if not item[0].isdecimal():
        raise PairError(
            f"tokenizer_config.json gives a token the id {item[0]!r}, which is none; fetch the model again."
        )
    return int(item[0])


def _instead(directory: Path) -> str:
    if (directory / "tokenizer.model").exists():
        return "there is a tokenizer.model only: choose a revision with tokenizer.json, or a GGUF of the model"
    return "fetch the model with its tokenizer"


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    """Chat template and special tokens as plain strings, from the places Hugging Face keeps them."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = directory / name
        if file.exists():
            try:
                data = json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, RecursionError, OSError) as error:
                raise PairError(f"{file} is not valid JSON ({error}); fetch the model again.") from None
            if not isinstance(data, dict):
                raise PairError(f"{file} is not a JSON object; fetch the model again.")
            config |= {key: value for key, value in data.items() if value is not None}
    for name in _SPECIALS:
        if isinstance(config.get(name), dict):
            config[name] = config[name].get("content")
        if config.get(name) not in (None, False) and not isinstance(config[name], str):
            raise PairError(f"The {name} in {directory} is {config[name]!r}, which is no text; fetch the model again.")
    template = directory / "chat_template.jinja"
    legacy = directory / "chat_template.json"
    if template.exists():
        try:
            config["chat_template"] = template.read_text(encoding="utf-8")
        except UnicodeError:
            raise PairError(f"{template} is no text in UTF-8; fetch the model again.") from None
    elif legacy.exists() and "chat_template" not in config:
        try:
            config["chat_template"] = json.loads(legacy.read_text(encoding="utf-8")).get("chat_template")
        except (ValueError, AttributeError, RecursionError):
            raise PairError(f"{legacy} is not valid JSON; fetch the model again.") from None
    if isinstance(config.get("chat_template"), list):
        named = {
            entry.get("name"): entry.get("template") for entry in config["chat_template"] if isinstance(entry, dict)
        }
        config["chat_template"] = named.get("default")
    if not isinstance(config.get("chat_template"), str | None):
        raise PairError(f"The chat template in {directory} is no text; fetch the model again.")
    return config


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted: printable Latin-1 is itself, the rest follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
