"""What a draft is worth, measured with the playground's own engine on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.distill.progress import Progress
from app.engine.session import Session
from app.errors import RequestError
from app.record import theory
from app.record.limits import AUTO, K
from app.record.metrics import ArmTotals, Metrics
from app.record.trace import Arm, Arms, Request, Sampling


class Tally:
    """Several runs added up."""

    def __init__(self) -> None:
        self.arms: dict[Arm, ArmTotals] = {}

    def add(self, metrics: Metrics) -> None:
        for name, arm in metrics.arms.items():
            self.arms.setdefault(name, ArmTotals()).add(arm)

    def summary(self, k: K) -> dict[str, Any]:
        """JSON types; the times and speedups only where both arms ran. Times in milliseconds."""
        arm, target = self.arms["speculative"], self.arms.get("target")
        out: dict[str, Any] = {
            "rounds": arm.rounds,
            "emitted": arm.emitted,
            "mean_acceptance_length": arm.mean_acceptance_length,
            "acceptance_rate": arm.acceptance_rate or 0.0,
            "acceptance_by_position": arm.acceptance_by_position,
        }
        draft, verify, speculative = arm.draft_pass_s, arm.verify_pass_s, arm.tpot_s
        one, alone = (target.verify_pass_s, target.tpot_s) if target else (None, None)
        passes = {"draft": draft, "verify": verify, "target": one}
        out |= {f"{name}_pass_ms": 1000 * seconds for name, seconds in passes.items() if seconds is not None}
        if alone and speculative:
            out |= {"target_tpot_ms": 1000 * alone, "speculative_tpot_ms": 1000 * speculative}
            out["speedup"] = alone / speculative
        if k != AUTO and draft and verify and one:
            out["predicted_speedup"] = theory.predicted_speedup(out["acceptance_rate"], k, draft / one, verify / one)
        return out


def evaluate(
    session: Session,
    prompts: Sequence[tuple[str, str]],
    ks: Sequence[K],
    temperatures: Sequence[float],
    max_tokens: int,
    seed: int,
    timed: bool,
    acceptor: str = "rejection",
) -> list[dict[str, Any]]:
    """One entry for each (temperature, k): overall figures, and those of each category under `categories`.

    timed: run both arms, so that TPOT and speedup are measured too; otherwise only the speculative one.
    """
    progress = Progress("evaluating", len(prompts) * len(ks) * len(temperatures))
    arms: Arms = "both" if timed else "speculative"
    results = []
    for temperature in temperatures:
        for k in ks:
            total, by_category = Tally(), dict[str, Tally]()
            for number, (category, prompt) in enumerate(prompts):
                sampling = Sampling(temperature=temperature, seed=seed + number)
                request = Request(
                    prompt=prompt, k=k, max_tokens=max_tokens, sampling=sampling, arms=arms, acceptor=acceptor
                )
                metrics = Metrics(session.run(request))
                if metrics.reason == "error":
                    raise RequestError(metrics.message)
                total.add(metrics)
                by_category.setdefault(category, Tally()).add(metrics)
                length = total.arms["speculative"].mean_acceptance_length or 0.0
                progress.step(f"T = {temperature:g}, k = {k}: {length:.2f} tokens a pass")
            entry = {"temperature": temperature, "k": str(k), **total.summary(k)}
            entry["categories"] = {name: tally.summary(k) for name, tally in by_category.items()}
            results.append(entry)
    progress.close()
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as lines of text."""
    lines = []
    for entry in results:
        positions = " ".join(f"{share:.2f}" for share in entry["acceptance_by_position"])
        line = f"T = {entry['temperature']:g}, k = {entry['k']}: {entry['mean_acceptance_length']:.3f} tokens a pass"
        line += f", acceptance {entry['acceptance_rate']:.3f}, by position {positions}"
        if "speedup" in entry:
            line += f", speedup {entry['speedup']:.2f}"
        if "predicted_speedup" in entry:
            line += f" (predicted {entry['predicted_speedup']:.2f})"
        lines.append(line)
        lines += [
            f"    {name:<20} {figures['mean_acceptance_length']:.3f}" for name, figures in entry["categories"].items()
        ]
    return "\n".join(lines)
