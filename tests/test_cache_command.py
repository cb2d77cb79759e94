"""`cache` shows what is kept of models, and clears what it is told to, nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.__main__ import main


def test_cache_shows_and_clears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path))
    assert main(["cache"]) == 0
    assert "Made from models: 0.00 GB" in capsys.readouterr().out
    for name in ("cache/graph-a", "cache/gguf-b", "hub/acme--tiny/commit"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(bytes(1000))
    (tmp_path / "model.gguf").write_text("mine")
    assert main(["cache", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert sorted((Path(each["path"]).name, each["bytes"], each["cleared"]) for each in entries) == [
        ("acme--tiny", 1000, False),
        ("gguf-b", 1000, False),
        ("graph-a", 1000, False),
    ]
    assert main(["cache", "--clear"]) == 0
    assert list((tmp_path / "cache").iterdir()) == []
    assert (tmp_path / "hub" / "acme--tiny").exists()
    assert main(["cache", "--clear-models"]) == 0
    assert list((tmp_path / "hub").iterdir()) == []
    assert (tmp_path / "model.gguf").exists()
