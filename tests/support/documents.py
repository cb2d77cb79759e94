"""The documents of the repository, and what they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "app/**/*.md", "assets/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
    if "site-packages" not in path.parts
)


def read(path: str) -> str:
    """A document by its path from the root."""
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path: Path, language: str = "") -> list[str]:
    """The fenced blocks of a document in one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for named, block in fenced if named == language]


def shown_commands(path: Path) -> list[str]:
    """The words after ./launch.sh in the blocks of a document, lines that go on joined, comments left out."""
    lines = [line for block in blocks(path) for line in block.replace("\\\n", " ").splitlines()]
    commands = [line.partition("./launch.sh")[2] for line in lines if "./launch.sh" in line]
    return [shlex.join(shlex.split(command, comments=True)) for command in commands]
