"""The page's scripts that run in node: `node --test tests/web`, over what `render.py` makes of a run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from app.record.metrics import Metrics
from app.ui import render
from tests.support.node import node
from tests.support.traces import trace

WEB = Path(__file__).resolve().parent / "web"


def test_what_is_pure_in_the_scripts(tmp_path: Path) -> None:
    events = trace()
    ids = {name: arm.token_ids for name, arm in Metrics(events).arms.items()}
    items = tmp_path / "items.json"
    items.write_text(json.dumps({"items": render.items(events), "ids": ids}), encoding="utf-8")
    done = subprocess.run(
        [node(), "--test", *map(str, sorted(WEB.glob("*.test.js")))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ITEMS": str(items)},
    )
    assert done.returncode == 0, done.stdout
    assert "\nℹ pass 0" not in done.stdout
