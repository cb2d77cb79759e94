"""What test_ranks has two processes do: `python -m tests.support.two_ranks DIRECTORY`, or the same under torchrun.
Rank 0 prints what it saw, as JSON; the other is started by rank 0 or by torchrun, and never comes back from loading."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from app.backends.torch import model
from app.engine.session import Session
from app.errors import PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, RunFinished

IDS = [5, 17, 3, 99, 64, 2, 2, 120, 31, 8] * 8


def main(directory: Path) -> dict[str, Any]:
    if (rank := os.environ.get("RANK")) is not None:  # torchrun started this process, and knows its id
        (directory / f"rank-{rank}").write_text(str(os.getpid()))
    options = PairOptions(
        backend="torch",
        device="cpu",
        dtype="f32",
        threads=1,
        target=directory / "target",
        draft=directory / "draft",
        tp_degree=2,
    )
    pair = pairs.load(options)
    target: Any = pair.target
    assert isinstance(target, model.TorchModel)
    seen: dict[str, Any] = {"device": target.device}
    sequence = target.new_sequence()
    seen["logits"] = sequence.forward(IDS, 3).tolist()
    sequence.close()
    session = Session(pair)
    request = Request(prompt="HELLO", chat_template=False, max_tokens=30)
    stopped = session.run(request)
    for _ in range(6):
        next(stopped)
    stopped.close()
    metrics = Metrics(session.run(request))
    seen["tokens"] = [metrics.arms[name].token_ids for name in ("target", "speculative")]
    try:
        pairs.load(options)
    except PairError as error:
        seen["again"] = str(error)
    running = session.run(request)
    for _ in range(6):
        next(running)
    assert target.network.ranks is not None
    started = [child.pid for child in target.network.ranks.children]
    os.kill(started[0] if started else int((directory / "rank-1").read_text()), signal.SIGKILL)
    *_, last = running
    assert isinstance(last, RunFinished)
    seen["killed"] = [last.reason, last.message]
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
