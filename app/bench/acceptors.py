"""What each acceptor keeps: the same prompts, seed and window, one acceptor after the other, prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.engine.session import Session
from app.errors import RequestError
from app.record.metrics import ArmTotals, Metrics
from app.record.trace import Request, Sampling


def table(
    session: Session, prompts: Sequence[str], k: int, temperature: float, max_tokens: int, seed: int
) -> Iterator[str]:
    """The lines of a Markdown table. The target alone runs once a prompt and acceptor, for the text to compare with."""
    totals = {card.name: ArmTotals() for card in session.acceptors}
    same, distances = dict.fromkeys(totals, 0), dict.fromkeys(totals, 0.0)
    for prompt in prompts:
        for name, total in totals.items():
            sampling = Sampling(temperature=temperature, seed=seed)
            request = Request(prompt=prompt, k=k, max_tokens=max_tokens, sampling=sampling, acceptor=name)
            metrics = Metrics(session.run(request))
            if metrics.reason == "error":
                raise RequestError(metrics.message)
            total.add(metrics.arms["speculative"])
            same[name] += metrics.first_divergence is None
            distances[name] = max(distances[name], metrics.total_variation or 0.0)
    yield (
        "| acceptor | lossless | acceptance | mean acceptance length | distance from the target | "
        "same text as target-only |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for card in session.acceptors:
        total = totals[card.name]
        far = distances[card.name]
        distance = "0 (rounding)" if far < 1e-5 else f"{far:.2f}"
        figures = f"{total.acceptance_rate or 0:.3f} | {total.mean_acceptance_length or 0:.2f} | {distance}"
        lossless = "yes" if card.lossless else "no"
        yield f"| `{card.name}` | {lossless} | {figures} | {same[card.name]} of {len(prompts)} |"
