"""A pool of engines by real Ray: two nodes on this machine, begun elsewhere, an engine on each, behind the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.__main__ import main
from app.hosting.pool import Size

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def test_a_pool_on_two_nodes_grows_serves_two_visitors_at_once_and_may_lose_one() -> None:
    pytest.importorskip("ray", reason="needs app/hosting/requirements-ray.txt")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ray_pool"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["health"]["engines"], seen["health"]["pair"]) == (2, "toy 0")

    assert seen["engines"] == [1, 2], "another was started for who waited"
    assert (seen["waited"]["how"], seen["meanwhile"]) == ("length", True), "on an engine of its own"

    one, other = seen["together"]
    assert (one["how"], other["how"]) == ("length", "length")
    assert max(one["began"], other["began"]) < min(one["ended"], other["ended"]), "they ran at the same time"

    lost, kept = sorted(seen["killed"], key=lambda run: str(run["how"]))
    assert (lost["how"], kept["how"]) == ("error", "length")
    assert "the engine of this run was lost" in lost["message"].lower()
    assert [run["how"] for run in seen["after"]] == ["length", "length"]

    assert [(run["how"], run["pair"]) for run in seen["switched"]] == [("length", "toy 1")] * 2


@pytest.mark.parametrize(("text", "size"), [("2", Size(2, 2)), ("1-4", Size(1, 4))])
def test_how_many_engines_is_a_number_or_a_range(text: str, size: Size) -> None:
    assert Size.of(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "4-1", "two", "1-", ""])
def test_no_number_of_engines_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--ray", "--replicas", text])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_replicas_without_ray_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--replicas", "2"]) == 2
    assert "--replicas is for a pool of engines" in capsys.readouterr().err
