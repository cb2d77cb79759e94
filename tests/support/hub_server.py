"""A local server that speaks the Hugging Face Hub's protocol: a listing with sizes and checksums, files by range."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """folder: holds owner/name/files. token: wanted for `gated` repositories. asked: (path, Range, token) of each
    request. cut: bytes after which a file's line breaks, once for each of `cuts`."""

    folder: Path
    token: str = "secret"
    gated: frozenset[str] = frozenset()
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    cut: int = 0
    cuts: int = 0
    slow: threading.Event | None = None
    spoilt: bool = False
    address: str = ""

    def sent(self, name: str) -> list[str | None]:
        """The ranges in which a file was asked for."""
        return [range_ for path, range_, _ in self.asked if path.endswith(f"/{name}")]


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
            parts = path.strip("/").split("/")
            repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            revision = parts[5] if parts[0] == "api" else parts[3]
            if not (hub.folder / repository).is_dir():
                return self._refuse(404, "RepoNotFound")
            if repository in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._refuse(403, "GatedRepo")
            if revision not in ("main", "v1", COMMIT):
                return self._refuse(404, "RevisionNotFound")
            if parts[0] == "api":
                return self._list(hub.folder / repository)
            return self._file(hub.folder / repository / "/".join(parts[4:]))

        def _refuse(self, code: int, error: str) -> None:
            self.send_response(code)
            self.send_header("X-Error-Code", error)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _list(self, folder: Path) -> None:
            siblings = []
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    entry: dict[str, object] = {"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size}
                    if file.suffix in (".safetensors", ".gguf"):
                        digest = hashlib.sha256(file.read_bytes()).hexdigest()
                        entry["lfs"] = {"sha256": digest, "size": file.stat().st_size}
                    siblings.append(entry)
            self._send(200, json.dumps({"sha": COMMIT, "siblings": siblings}).encode())

        def _file(self, file: Path) -> None:
            if not file.is_file():
                return self._refuse(404, "EntryNotFound")
            data = file.read_bytes()
            if hub.spoilt and file.suffix in (".safetensors", ".gguf"):
                data = bytes(len(data))
            wanted = self.headers.get("Range")
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if begin >= len(data):
                return self._refuse(416, "Range")
            return self._send(206 if wanted else 200, data[begin:], breaks=file.suffix in (".safetensors", ".gguf"))

        def _send(self, code: int, data: bytes, breaks: bool = False) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if breaks and hub.slow is not None:
                self.wfile.write(data[: hub.cut])
                self.wfile.flush()
                hub.slow.wait(60)
                data = data[hub.cut :]
            elif breaks and hub.cuts > 0:
                hub.cuts -= 1
                data = data[: hub.cut]
                self.close_connection = True
            with contextlib.suppress(OSError):
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        if hub.slow is not None:
            hub.slow.set()
        server.shutdown()
        server.server_close()
        thread.join()
