"""Models of the Hugging Face Hub: what an id or a link names, and its files, fetched once and kept.

Configurations first, so that a model that cannot run is refused before its weights come; then weights, resumed where
the last try ended, checked against the Hub's own checksum, and given up at once when asked. Files only: no code of a
model is ever run. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` mean what they mean to the Hub's own tools.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import PairError
from app.pairs.hub_names import Reference
from app.pairs.hub_protocol import cached, digest, download, endpoint, offline, open_url, reason
from app.places import models_dir

_SMALL = 32 << 20  # bytes up to which a file of JSON is a configuration or a tokenizer
_TRIES = 5
Progress = Callable[[int, int, str], None]
"""Told the bytes that have come, those that will in all, and the name of the file."""


class FetchStopped(PairError):  # noqa: N818  (no fault: somebody asked for it)
    """The fetch was given up; what has come is kept, and the next one goes on from there."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: bytes, and its SHA-256 where the Hub says it."""

    name: str
    size: int
    sha256: str | None


class Snapshot:
    """One revision of a repository, and the folder its files are kept in."""

    def __init__(self, reference: Reference, commit: str, files: tuple[RemoteFile, ...]) -> None:
        self.reference, self.commit = reference, commit
        self._files = _wanted(reference, files)
        theirs = cached(reference.repository, commit)
        whole = theirs is not None and all((theirs / file.name).exists() for file in self._files)
        # the Hub's own tools may have fetched it before
        self.directory = theirs if theirs is not None and whole else _home(reference.repository) / commit

    @property
    def path(self) -> Path:
        """What a backend loads: the folder, or the GGUF in it."""
        ggufs = [file.name for file in self._files if file.name.endswith(".gguf")]
        return self.directory / ggufs[0] if ggufs else self.directory

    @property
    def is_gguf(self) -> bool:
        return self.path != self.directory

    def is_whole(self) -> bool:
        """Whether every file is here: one that has come and was not checked yet is not."""
        return self._whole(self._files)

    def _whole(self, files: Iterable[RemoteFile]) -> bool:
        return all((self.directory / file.name).exists() for file in files)

    def fetch(self, *, weights: bool, progress: Progress, cancel: threading.Event | None = None) -> None:
        """Fetch the configurations, or all of it. Raises PairError, and `FetchStopped` once `cancel` is set."""
        files = [file for file in self._files if weights or not _is_weights(file.name)]
        if self._whole(files):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with _alone(self.directory):
            self._fetch_all(files, progress, cancel)

    def _fetch_all(self, files: list[RemoteFile], progress: Progress, cancel: threading.Event | None) -> None:
        needed = sum(file.size - self._held(file) for file in files)
        free = shutil.disk_usage(self.directory).free
        if needed > free - (64 << 20):
            raise PairError(
                f"{self.reference.repository} needs {needed / 1e9:.1f} GB more on disk and {free / 1e9:.1f} "
                "GB are free at "
                f"{self.directory}; make room, or choose another place with PLAYGROUND_MODELS."
            )
        total, come = sum(file.size for file in files), sum(self._held(file) for file in files)
        for file in files:
            before = come - self._held(file)

            def told(size: int, name: str = file.name, before: int = before) -> None:
                if cancel is not None and cancel.is_set():
                    raise FetchStopped(
                        f"Fetching {self.reference.repository} was stopped; it goes on from there next time."
                    )
                progress(before + size, total, name)

            self._fetch(file, told)
            come = before + file.size
        (_home(self.reference.repository) / "refs.json").write_text(
            json.dumps({**_refs(self.reference.repository), self.reference.revision or "main": self.commit}),
            encoding="utf-8",
        )

    def _held(self, file: RemoteFile) -> int:
        path = self.directory / file.name
        partial = _partial(path)
        return file.size if path.exists() else min(partial.stat().st_size, file.size) if partial.exists() else 0

    def _fetch(self, file: RemoteFile, told: Callable[[int], None]) -> None:
        path = self.directory / file.name
        if path.exists():
            return
        partial = _partial(path)
        partial.parent.mkdir(parents=True, exist_ok=True)
        address = f"{endpoint()}/{self.reference.repository}/resolve/{self.commit}/{urllib.parse.quote(file.name)}"
        for attempt in range(_TRIES):
            try:
                download(address, partial, file.size, told)
                break
            except urllib.error.HTTPError as error:
                if error.code != 416 and (error.code < 500 or attempt == _TRIES - 1):
                    raise _refusal(self.reference, error) from None
                if error.code == 416:  # what was kept is no beginning of it
                    partial.unlink(missing_ok=True)
            except (OSError, ValueError) as error:
                if attempt == _TRIES - 1:
                    raise PairError(
                        f"{file.name} of {self.reference.repository} did not come whole ({reason(error)}); run the "
                        "same "
                        "command again, it goes on from there."
                    ) from None
                time.sleep(min(2**attempt / 4, 4))
        if partial.stat().st_size != file.size or (file.sha256 is not None and digest(partial) != file.sha256):
            partial.unlink()
            raise PairError(f"{file.name} of {self.reference.repository} came damaged; run the same command again.")
        partial.replace(path)


def snapshot(reference: Reference) -> Snapshot:
    """The revision a reference names, asked of the Hub, or of what is kept where it cannot be asked. Raises
    PairError."""
    at = reference.revision or "main"
    if offline():
        return _kept(reference, "HF_HUB_OFFLINE is set")
    address = f"{endpoint()}/api/models/{reference.repository}/revision/{urllib.parse.quote(at, safe='')}?blobs=true"
    try:
        with open_url(address) as answer:
            said = json.loads(answer.read(16 << 20))
        files = tuple(_remote_file(entry) for entry in said["siblings"] if ".." not in entry["rfilename"])
        commit = str(said["sha"])
        if not re.fullmatch(r"[\w.-]+", commit):
            raise ValueError(f"the commit {commit}")
    except urllib.error.HTTPError as error:
        raise _refusal(reference, error) from None
    except OSError as error:
        return _kept(reference, f"the Hub cannot be reached ({reason(error)})")
    except (ValueError, KeyError, TypeError) as error:
        raise PairError(
            f"{endpoint()} gave no list of files for {reference.repository} ({error}); check HF_ENDPOINT."
        ) from None
    architecture = (said.get("gguf") or {}).get("architecture", "llama") if isinstance(said, dict) else "llama"
    asked = Snapshot(reference, commit, files)
    if asked.is_gguf and architecture != "llama":
        raise PairError(
            f"{reference.repository} holds a {architecture} model; this playground runs Llama architectures only."
        )
    home = _home(reference.repository) / commit
    home.mkdir(parents=True, exist_ok=True)
    listing = [{"rfilename": file.name, "size": file.size, "lfs": {"sha256": file.sha256}} for file in files]
    (home / ".files.json").write_text(json.dumps(listing), encoding="utf-8")
    return asked


class Shown:
    """Progress on the terminal: one line that stays in place, in a log a line each tenth."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def __call__(self, come: int, total: int, name: str) -> None:
        percent = 100 * come // max(total, 1)
        line = f"{percent:3}% of {total / 1e6:,.1f} MB  {name}"
        if sys.stderr.isatty():
            print(f"\r{line[:100]:100}", end="\n" if come >= total else "", file=sys.stderr, flush=True)
        elif (name, percent // 10) != self._last:
            self._last = (name, percent // 10)
            print(line, file=sys.stderr, flush=True)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One process fetches at a time; the next then finds what it would have fetched."""
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    lfs = entry.get("lfs") or {}
    return RemoteFile(str(entry["rfilename"]), int(lfs.get("size") or entry.get("size") or 0), lfs.get("sha256"))


def _wanted(reference: Reference, files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """The files of a model that are of use here: its configurations and safetensors, or one GGUF."""
    by_name = {file.name: file for file in files}
    small = [f for f in files if f.name.endswith((".json", ".jinja")) and "/" not in f.name and f.size <= _SMALL]
    ggufs = [name for name in sorted(by_name) if name.endswith(".gguf")]
    chosen = reference.file
    if chosen is None and "config.json" not in by_name and ggufs:
        whole = [name for name in ggufs if "-of-" not in name or "-00001-of-" in name]
        if len(whole) > 1:
            shown = ", ".join(whole[:12])
            raise PairError(
                f"{reference.repository} holds {len(whole)} GGUF files; name one as "
                f"{reference.repository}:FILE ({shown})."
            )
        chosen = whole[0]
    if chosen is not None:
        if chosen not in by_name:
            there = ", ".join(ggufs[:12]) or "no GGUF"
            raise PairError(f"{reference.repository} has no file {chosen}; it holds {there}.")
        split = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", chosen)
        parts = [
            n for n in ggufs if split and re.fullmatch(re.escape(split[1]) + r"-\d{5}-of-" + split[2] + r"\.gguf", n)
        ]
        beside = [f for f in small if f.name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
        return (*beside, *(by_name[name] for name in (parts or [chosen])))
    weights = [f for f in files if f.name.endswith(".safetensors") and "/" not in f.name]
    weights = [f for f in weights if not f.name.startswith(("consolidated", "adapter"))]
    if "config.json" not in by_name:
        raise PairError(f"{reference.repository} holds no config.json, so no model that runs here; choose another.")
    if not weights:
        raise PairError(
            f"{reference.repository} holds no safetensors, only forms that can run code when they are "
            "read; choose another "
            "revision, or a GGUF of the model."
        )
    return (*small, *weights)


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf"))


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _home(repository: str) -> Path:
    return models_dir() / "hub" / repository.replace("/", "--")


def _refs(repository: str) -> dict[str, str]:
    try:
        return dict(json.loads((_home(repository) / "refs.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _kept(reference: Reference, why: str) -> Snapshot:
    """What an earlier fetch left."""
    at = reference.revision or "main"
    commit = _refs(reference.repository).get(at, at)
    if (theirs := cached(reference.repository, at)) is not None:
        there = tuple(RemoteFile(file.name, file.stat().st_size, None) for file in theirs.iterdir() if file.is_file())
        return Snapshot(reference, theirs.name, there)
    listing = _home(reference.repository) / commit / ".files.json"
    try:
        files = tuple(_remote_file(entry) for entry in json.loads(listing.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        raise PairError(
            f"{reference.repository} at revision {at} is not on this machine, and {why}; connect (and "
            "unset HF_HUB_OFFLINE), "
            "or name a local directory."
        ) from None
    held = Snapshot(reference, commit, files)
    if not held.is_whole():
        raise PairError(
            f"{reference.repository} is on this machine in part only, and {why}; connect, then run it again."
        )
    return held


def _refusal(reference: Reference, error: urllib.error.HTTPError) -> PairError:
    """The sentence for what the Hub answered."""
    repository, code = reference.repository, error.headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        return PairError(
            f"{repository} is gated; accept its licence on huggingface.co, then set HF_TOKEN to a token "
            "of that account."
        )
    if code == "RevisionNotFound":
        return PairError(f"{repository} has no revision {reference.revision}; check --revision.")
    if code == "RepoNotFound" or error.code in (401, 403, 404):
        return PairError(f"The Hub has no {repository} that this token may read; check the name, or set HF_TOKEN.")
    return PairError(f"{repository} cannot be fetched (the Hub answers {error.code} {error.reason}); try again later.")
