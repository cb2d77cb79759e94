"""Text to token ids and back, from a `tokenizer.json` and the chat template beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence as Ids
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from app.errors import PairError, RequestError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TextTokenizer:
    """See `app.engine.model.Tokenizer`."""

    def __init__(self, directory: Path, stop_ids: Ids[int]) -> None:
        """directory: holds `tokenizer.json`, and `tokenizer_config.json` where there is one. Raises PairError."""
        file = directory / "tokenizer.json"
        if not file.exists():
            raise PairError(f"There is no tokenizer.json in {directory}; fetch the model with its tokenizer.")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise PairError(f"{file} is damaged ({error}); fetch it again.") from error
        self._config = _tokenizer_config(directory)
        self.stop_ids = frozenset(stop_ids)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self._special = frozenset(index for index, token in added.items() if token.special)
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str())["decoder"])

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        return bool(self._config.get("chat_template"))

    def encode(self, text: str) -> list[int]:
        ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        bos = self._config.get("bos_token")
        if self._config.get("add_bos_token") and bos and not text.startswith(bos):
            ids[:0] = self._tokenizer.encode(bos, add_special_tokens=False).ids
        return ids

    def encode_chat(self, messages: Ids[dict[str, str]]) -> list[int]:
        if not self.has_chat_template:
            raise RequestError("This model has no chat template; switch the chat template off.")
        try:
            text = self._template.render(
                messages=list(messages),
                add_generation_prompt=True,
                bos_token=self._config.get("bos_token") or "",
                eos_token=self._config.get("eos_token") or "",
            )
        except TemplateError as error:
            raise RequestError(f"The model's chat template refuses this conversation: {error}.") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _template(self) -> Any:
        def refuse(message: str) -> None:
            raise TemplateError(message)

        # the template comes with the model: it may compute text and nothing else
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return environment.from_string(self._config["chat_template"])

    def piece(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""  # a padded row of the vocabulary
        if self._byte_level:
            table = _bytes_of_characters()
            return bytes(table[character] for character in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return str(token).replace("\u2581", " ").encode()

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    """Chat template and bos, eos as plain strings, from the places Hugging Face keeps them."""
    config: dict[str, Any] = {}
    file, template = directory / "tokenizer_config.json", directory / "chat_template.jinja"
    if file.exists():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PairError(f"{file} is not valid JSON ({error}); fetch the model again.") from None
    for name in ("bos_token", "eos_token"):
        if isinstance(config.get(name), dict):
            config[name] = config[name].get("content")
    if isinstance(config.get("chat_template"), list):
        named = {entry["name"]: entry["template"] for entry in config["chat_template"]}
        config["chat_template"] = named.get("default")
    if template.exists():
        config["chat_template"] = template.read_text(encoding="utf-8")
    return config


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted: printable Latin-1 is itself, the rest follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
