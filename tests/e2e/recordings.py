"""The recorded runs the page offers, of the embedded pair as it is: python -m tests.e2e.recordings"""

from __future__ import annotations

from dataclasses import replace

from app.engine.session import Session
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record import trace
from app.record.metrics import Metrics
from app.record.trace import Request, Sampling, Trace
from app.ui.assets import REPLAYS

# One text in both arms; coins and residuals; what a lossy rule does to the distribution.
REQUESTS = {
    "1-greedy": Request("How do I make a simple tomato soup?"),
    "2-coins": Request(
        "Describe a walk through a small town by the sea.", sampling=Sampling(temperature=0.8, top_p=0.95, seed=3)
    ),
    "3-lossy": Request(
        "Describe a walk through a small town by the sea.",
        sampling=Sampling(temperature=0.8, top_p=0.95, seed=3),
        acceptor="lenient",
    ),
}
K = 4
MAX_TOKENS = 128


def record(session: Session, request: Request) -> Trace:
    """The second of two runs: the first warms the pair up."""
    for _ in range(2):
        events = list(session.run(request))
    return events


def main() -> None:
    REPLAYS.mkdir(exist_ok=True)
    session = Session(pairs.load(PairOptions()))
    for name, request in REQUESTS.items():
        events = record(session, replace(request, k=K, max_tokens=MAX_TOKENS))
        path = REPLAYS / f"{name}.jsonl"
        path.write_text("".join(trace.write(events)), encoding="ascii")
        speedup = Metrics(events).speedup
        print(path, f"{path.stat().st_size / 1000:.0f} kB, speedup {speedup:.2f}")


if __name__ == "__main__":
    main()
