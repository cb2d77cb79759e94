"""What a draft is worth, measured with the playground's own engine on held-out prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app import theory
from app.distill.progress import Progress
from app.errors import RequestError
from app.metrics import Metrics
from app.session import Session
from app.trace import Arms, Event, Request, Round, RunFinished, Sampling


@dataclass(slots=True)
class Tally:
    """Several runs added up: rounds after the prefill, and the arms' seconds and tokens of TPOT."""

    rounds: int = 0
    emitted: int = 0
    judged: int = 0
    accepted: int = 0
    drafted_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    pass_seconds: dict[str, float] = field(default_factory=dict)

    def add(self, events: Iterable[Event]) -> None:
        metrics = Metrics()
        for event in events:
            metrics.add(event)
            if isinstance(event, Round) and event.index:
                if event.arm == "speculative":
                    self._add_round(event)
                self._add_pass("draft", len(event.drafted), event.draft_seconds)
                name = "target" if event.arm == "target" else "verify"
                self._add_pass(name, 1, event.verify_seconds)
        for name, arm in metrics.arms.items():
            if arm.tpot_s is not None:
                self.tokens[name] = self.tokens.get(name, 0) + arm.tokens - 1
                self.seconds[name] = self.seconds.get(name, 0.0) + arm.tpot_s * (arm.tokens - 1)

    def _add_round(self, round_: Round) -> None:
        self.rounds += 1
        self.emitted += len(round_.token_ids)
        for place, token in enumerate(round_.drafted):
            if place == len(self.drafted_at):
                self.drafted_at.append(0)
                self.accepted_at.append(0)
            self.drafted_at[place] += 1
            self.accepted_at[place] += token.state == "accepted"
            self.accepted += token.state == "accepted"
            self.judged += token.state != "discarded"

    def _add_pass(self, name: str, count: int, seconds: float) -> None:
        self.passes[name] = self.passes.get(name, 0) + count
        self.pass_seconds[name] = self.pass_seconds.get(name, 0.0) + seconds

    def summary(self, k: int) -> dict[str, Any]:
        """JSON types; the times and speedups only where both arms ran. Times in milliseconds."""
        alpha = self.accepted / self.judged if self.judged else 0.0
        by_position = [a / d for a, d in zip(self.accepted_at, self.drafted_at, strict=True)]
        out: dict[str, Any] = {
            "rounds": self.rounds,
            "emitted": self.emitted,
            "mean_acceptance_length": self.emitted / self.rounds if self.rounds else None,
            "acceptance_rate": alpha,
            "acceptance_by_position": by_position,
        }
        mean = {name: self.pass_seconds[name] / n for name, n in self.passes.items() if n}
        out |= {f"{name}_pass_ms": 1000 * seconds for name, seconds in mean.items()}
        if {"target", "speculative"} <= self.tokens.keys() and {"target", "draft", "verify"} <= mean.keys():
            tpot = {name: self.seconds[name] / self.tokens[name] for name in self.seconds}
            cost, verify = mean["draft"] / mean["target"], mean["verify"] / mean["target"]
            out |= {f"{name}_tpot_ms": 1000 * seconds for name, seconds in tpot.items()}
            out["predicted_speedup"] = theory.predicted_speedup(alpha, k, cost, verify)
            out["speedup"] = tpot["target"] / tpot["speculative"]
        return out


def evaluate(
    session: Session,
    prompts: Sequence[tuple[str, str]],
    ks: Sequence[int],
    temperatures: Sequence[float],
    max_tokens: int,
    seed: int,
    timed: bool,
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
                request = Request(prompt=prompt, k=k, max_tokens=max_tokens, sampling=sampling, arms=arms)
                events = list(session.run(request))
                last = events[-1]
                if isinstance(last, RunFinished) and last.reason == "error":
                    raise RequestError(last.message)
                total.add(events)
                by_category.setdefault(category, Tally()).add(events)
                progress.step(f"T = {temperature:g}, k = {k}: {total.emitted / max(total.rounds, 1):.2f} tokens a pass")
            entry = {"temperature": temperature, "k": k, **total.summary(k)}
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
            line += f", speedup {entry['speedup']:.2f} (predicted {entry['predicted_speedup']:.2f})"
        lines.append(line)
        lines += [
            f"    {name:<20} {figures['mean_acceptance_length']:.3f}" for name, figures in entry["categories"].items()
        ]
    return "\n".join(lines)
