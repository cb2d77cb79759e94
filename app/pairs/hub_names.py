"""What a person writes for a model of the Hugging Face Hub: an id, a file of one, or a link."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from app.errors import PairError
from app.pairs.hub_protocol import endpoint

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository owner/name, one of its files (a GGUF) or None, and a revision or None."""

    repository: str
    file: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        return (self.file or self.repository).rpartition("/")[2].removesuffix(".gguf")


def parse(text: str, revision: str | None = None) -> Reference | None:
    """What `owner/name[:file.gguf]` or a link to the Hub names; None for what is neither. Raises PairError."""
    written = re.sub(r"^(https?):/(?=[^/])", r"\1://", text.strip())  # a path has lost a slash
    link = re.match(r"(?:https?://)?([^/]+)/(.+)", written)
    own = urllib.parse.urlsplit(endpoint()).netloc
    if link and link[1].lower() in (*_HOSTS, own):
        parts = [urllib.parse.unquote(part) for part in link[2].partition("?")[0].strip("/").split("/")]
        repository, kind, at = "/".join(parts[:2]), *[*parts[2:4], "", ""][:2]
        if not _ID.fullmatch(repository) or parts[0] in ("datasets", "spaces"):
            raise PairError(f"{text} names no model of the Hub; write owner/name.")
        if kind not in ("tree", "blob", "resolve", "raw"):
            at = ""
        named = "/".join(parts[4:]) if kind in ("blob", "resolve", "raw") else ""
        return Reference(repository, named if named.endswith(".gguf") else None, revision or at or None)
    repository, _, file = written.partition(":")
    if _ID.fullmatch(repository) and ".." not in file and (not file or file.endswith(".gguf")):
        return Reference(repository, file or None, revision)
    return None
