"""The peers as seen from the bench: an environment of their own, a process each, one question at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.bench.peer_files import PeerFiles
from app.errors import RequestError
from app.places import home

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements-peers.txt"
ALL = ("transformers", "transformers+draft", "llama.cpp", "llama.cpp+draft", "openvino-genai", "openvino-genai+draft")
NEEDS = {"transformers": ("target", "draft"), "llama.cpp": ("target_gguf", "draft_gguf")}
NEEDS["openvino-genai"] = ("target_q8", "draft_gguf")
"""The files of `PeerFiles` that a peer reads: alone, and with a draft."""
NUM_DRAFTS = (1, 2, 4)
"""Draft lengths tried for a speculative peer before the comparison; the fastest is kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer said, and its times by its own clock; tpot_s None below two tokens. memory in bytes."""

    ids: list[int]
    ttft_s: float
    tpot_s: float | None
    memory: int


def environment() -> Path:
    """The Python of the peers' environment, made where it is missing. Packages that cannot be installed are missing
    peers, each named when it is asked for. PLAYGROUND_PEERS names an environment that is there already."""
    given = os.environ.get("PLAYGROUND_PEERS")
    folder = Path(given) if given else home() / ".venv-peers"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / ".installed"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if given or (stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
        return python
    print("Installing the peers into .venv-peers (once; llama.cpp is compiled, up to ten minutes)...", file=sys.stderr)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    failed = [
        line
        for line in wanted.splitlines()
        if line and not line.startswith("#") and subprocess.run([*pip, line], check=False).returncode
    ]
    if failed:
        print(f"Not installed: {', '.join(failed)}; their rows will be missing.", file=sys.stderr)
    else:
        stamp.write_text(wanted, encoding="utf-8")
    return python


def lacking(name: str, files: PeerFiles) -> str | None:
    """Why a peer cannot run this pair; None where it can."""
    kind, _, drafted = name.partition("+")
    target, draft = NEEDS[kind]
    form = "a directory" if kind == "transformers" else "a GGUF"
    if getattr(files, target) is None:
        return f"{name} reads the target as {form}, and this pair's is none."
    if drafted and getattr(files, draft) is None:
        return f"{name} reads the draft as {form}, and this pair's is none."
    return None


def read_by(name: str, files: PeerFiles) -> str:
    """The name of the target's file, or folder, that a peer reads; empty for one it lacks."""
    path = getattr(files, NEEDS[name.partition("+")[0]][0])
    return "" if path is None else str(path.name)


class Peer:
    """A peer's process. Raises RequestError where it cannot be loaded."""

    def __init__(self, name: str, files: PeerFiles, stop_ids: Iterable[int], threads: int, python: Path) -> None:
        self.name = name
        self.num_draft = NUM_DRAFTS[0]
        asked = {key: None if value is None else str(value) for key, value in asdict(files).items()}
        options = {**asked, "stop_ids": sorted(stop_ids), "threads": threads, "n_positions": 1024}
        self._process = subprocess.Popen(
            [str(python), str(HERE / "peer_worker.py"), name, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.version = str(self._line()["ready"])

    def ask(self, ids: Sequence[int], max_tokens: int) -> Answer:
        """Raises RequestError with the peer's own fault."""
        assert self._process.stdin is not None
        asked = {"ids": list(ids), "max_tokens": max_tokens, "num_draft": self.num_draft}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._line()
        if "error" in answer:
            raise RequestError(f"{self.name} failed ({answer['error']}).")
        return Answer(answer["ids"], answer["ttft_s"], answer["tpot_s"], answer["memory"])

    def tune(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        """Keep the draft length that is fastest on a few prompts."""
        if not self.name.endswith("+draft"):
            return
        seconds = {}
        for self.num_draft in NUM_DRAFTS:
            seconds[self.num_draft] = sum(self.ask(ids, max_tokens).tpot_s or 0.0 for ids in prompts)
        self.num_draft = min(seconds, key=seconds.__getitem__)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        """The next line that is JSON; libraries print what they like."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        _, errors = self._process.communicate()
        said = errors.strip().splitlines()
        raise RequestError(f"{self.name} did not run ({said[-1] if said else 'no reason given'}).")
