"""What each acceptor keeps: the same prompts, seed and window, one acceptor after the other, prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.errors import RequestError
from app.metrics import Metrics
from app.session import Session
from app.trace import Request, Sampling


@dataclass(slots=True)
class _Sums:
    rounds: int = 0
    emitted: int = 0
    accepted: int = 0
    judged: int = 0
    same: int = 0
    distance: float = 0.0


def table(
    session: Session, prompts: Sequence[str], k: int, temperature: float, max_tokens: int, seed: int
) -> Iterator[str]:
    """The lines of a Markdown table. The target alone runs once a prompt and acceptor, for the text to compare with."""
    sums = {card.name: _Sums() for card in session.acceptors}
    for prompt in prompts:
        for name, total in sums.items():
            sampling = Sampling(temperature=temperature, seed=seed)
            request = Request(prompt=prompt, k=k, max_tokens=max_tokens, sampling=sampling, acceptor=name)
            metrics = Metrics(session.run(request))
            if metrics.reason == "error":
                raise RequestError(metrics.message)
            arm = metrics.arms["speculative"]
            total.rounds += arm.rounds
            total.emitted += arm.tokens - 1  # the first token is the prefill's
            total.accepted += arm.accepted
            total.judged += arm.accepted + arm.counts["rejected"]
            total.same += metrics.first_divergence is None
            total.distance = max(total.distance, metrics.total_variation or 0.0)
    yield "| acceptor | lossless | acceptance | mean acceptance length | distance from the target | same text as target-only |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for card in session.acceptors:
        total = sums[card.name]
        acceptance = total.accepted / total.judged if total.judged else 0.0
        length = total.emitted / total.rounds if total.rounds else 0.0
        distance = "0 (rounding)" if total.distance < 1e-5 else f"{total.distance:.2f}"
        lossless = "yes" if card.lossless else "no"
        yield (
            f"| `{card.name}` | {lossless} | {acceptance:.3f} | {length:.2f} | {distance} | {total.same} of {len(prompts)} |"
        )
