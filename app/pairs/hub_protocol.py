"""How the Hugging Face Hub is spoken to: its address, its token, a file from where the last try ended."""

from __future__ import annotations

import hashlib
import os
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

_BLOCK = 1 << 20
_TIMEOUT = 30  # seconds without a byte


def download(address: str, partial: Path, size: int, told: Callable[[int], None]) -> None:
    """Append what is missing of a file. Raises OSError where the line breaks, and HTTPError."""
    begin = partial.stat().st_size if partial.exists() else 0
    if begin >= size:
        return
    with open_url(address, begin) as answer:
        resumed = begin and answer.status == 206
        come = begin if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            told(come)
            while block := answer.read1(_BLOCK):  # what is there: a slow line is told of, and can be left
                file.write(block)
                come += len(block)
                told(come)
    if come < size:
        raise OSError(f"{come} of {size} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Weights come from other hosts than the Hub's: those are not told the token."""

    def redirect_request(
        self,
        request: urllib.request.Request,
        file: IO[bytes],
        code: int,
        message: str,
        headers: HTTPMessage,
        address: str,
    ) -> urllib.request.Request | None:
        after = super().redirect_request(request, file, code, message, headers, address)
        if (
            after is not None
            and urllib.parse.urlsplit(address).netloc != urllib.parse.urlsplit(request.full_url).netloc
        ):
            after.remove_header("Authorization")
        return after


def open_url(address: str, begin: int = 0) -> Any:
    headers = {"User-Agent": "speculative-sampling-playground", "Accept-Encoding": "identity"}
    if secret := token():
        headers["Authorization"] = f"Bearer {secret}"
    if begin:
        headers["Range"] = f"bytes={begin}-"
    opener = urllib.request.build_opener(_Redirects())
    return opener.open(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT)


def digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def reason(error: Exception) -> str:
    said = getattr(error, "reason", None) or error
    return str(said).strip().rstrip(".")[:200] or type(error).__name__


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def token() -> str | None:
    if given := (os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")):
        return given.strip()
    try:
        return (_hub_home() / "token").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def cached(repository: str, revision: str) -> Path | None:
    """A revision (a branch, a tag or a commit) of a repository in the cache of the Hub's own tools, if it is there."""
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(_hub_home(), "hub")
    folder = Path(hub) / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and ".." not in commit and snapshot.is_dir() else None


def _hub_home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
