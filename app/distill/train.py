"""Training the draft on the teacher's distributions. Resumable, deterministic given a seed."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.distill import corpus
from app.distill.corpus import Example
from app.distill.progress import Progress
from app.distill.student import Student, ridge

SHARPENINGS = tuple(round(0.8 + 0.05 * step, 2) for step in range(17))


@dataclass(frozen=True, slots=True)
class Recipe:
    """tokens: teacher's tokens to be seen. batch: padded tokens a step. rate: after `warmup` steps it stays, and falls
    in a straight line to `floor` times itself over the last `decay` of the run. late: the last share of the run, with
    total variation of weight `late_weight` in the loss. minutes: if given, the run is that long by the clock instead,
    whatever the tokens; it can then not be repeated exactly. asked_weight, cold_weight: weights in the loss of tokens of
    instructions and of answers at T = 0, beside 1 for answers above it. bf16: matrix products in bf16; weights, sums and
    the loss stay in f32."""

    tokens: int
    batch: int = 1536
    rate: float = 1.5e-3
    decay: float = 0.6
    floor: float = 0.02
    warmup: int = 40
    late: float = 0.2
    late_weight: float = 0.7
    asked_weight: float = 0.5
    cold_weight: float = 1.5
    minutes: float | None = None
    bf16: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out answers with what the full target says of every token. kept_logprobs are over the whole vocabulary."""

    examples: list[Example]
    kept_logprobs: list[Tensor]  # [n, K] each
    argmax: list[NDArray[np.int64]]


def held_out(examples: list[Example], output: Tensor, kept_ids: Tensor) -> HeldOut:
    """output: the target's output layer [vocab, D]."""
    kept, best = [], []
    for e in examples:
        logits = torch.from_numpy(e.hidden.astype(np.float32)) @ output.T
        kept.append(logits[:, kept_ids] - logits.logsumexp(1, keepdim=True))
        best.append(logits.argmax(1).numpy())
    return HeldOut(examples, kept, best)


def rows(student: Student, batch: list[Example]) -> tuple[Tensor, Tensor]:
    """(student's hidden states, teacher's) [n, D] at every position whose next token the teacher drew."""
    longest = max(len(e.token_ids) for e in batch)
    ids = torch.zeros(len(batch), longest - 1, dtype=torch.int64)
    mask = torch.zeros(len(batch), longest - 1, dtype=torch.bool)
    for i, e in enumerate(batch):
        n = len(e.token_ids) - 1
        ids[i, :n] = torch.from_numpy(e.token_ids[:-1].astype(np.int64))
        mask[i, :n] = torch.from_numpy(e.scored[1:])
    teacher = torch.from_numpy(np.concatenate([e.hidden for e in batch]).astype(np.float32))
    return student.hidden(ids)[mask], teacher


def initialise(student: Student, examples: list[Example], output: Tensor, batch: int, tokens: int = 20_000) -> None:
    """Sets the output layer by `ridge` on about `tokens` tokens."""
    seen, pairs = 0, []
    with torch.no_grad():
        for chosen in corpus.batches(examples, batch, 0, -1 % 1000):
            pairs.append(rows(student, chosen))
            seen += len(pairs[-1][0])
            if seen >= tokens:
                break
        own, teacher = (torch.cat(part) for part in zip(*pairs, strict=True))
        student.lm_head.weight.copy_(ridge(own, teacher, output[student.kept_ids]))


def kinds(batch: list[Example], recipe: Recipe) -> tuple[Tensor, Tensor]:
    """For the positions of `rows`: (drawn at a temperature above 0, bool [n]; weight in the loss, float [n])."""
    hot, weights = [], []
    for e in batch:
        asked = np.flatnonzero(e.scored) < e.answer  # instructions are never drawn at 0, nor by a draft
        hot.append(asked | (e.temperature > 0))
        weights.append(np.where(asked, recipe.asked_weight, 1.0 if e.temperature else recipe.cold_weight))
    return torch.from_numpy(np.concatenate(hot)), torch.from_numpy(np.concatenate(weights).astype(np.float32))


class Loss(torch.autograd.Function):
    """Weighted mean over rows of (1 - tv_weight) KL(p || q) + tv_weight TV(p, q), both over the kept ids.

    sum(min(p, q)) = 1 - TV is what decides acceptance above T = 0; KL learns faster. Output layer and gradient included,
    since p, q and the gradient of a few rows stay in the processor's cache and those of a whole batch do not.
    """

    ROWS = 128  # at once

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, head: Tensor, teacher: Tensor, output: Tensor, weights: Tensor, tv_weight: Tensor | None
    ) -> Tensor:
        """own, teacher [n, D]: final hidden states of student and teacher. head, output [K, D]: their output layers over
        the kept ids; `output`'s type is that of the products. weights, tv_weight [n]."""
        dtype, weights = output.dtype, weights / weights.sum()
        own_grad, grads = torch.empty_like(own, dtype=torch.float32), own.new_empty(len(own), len(head), dtype=dtype)
        own, head, value = own.to(dtype), head.to(dtype), torch.zeros(())
        for part in range(0, len(own), Loss.ROWS):
            rows = slice(part, part + Loss.ROWS)
            z, t = (own[rows] @ head.T).float(), (teacher[rows].to(dtype) @ output.T).float()
            z_total, t_total = z.logsumexp(1), t.logsumexp(1)
            p, q = torch.exp(t - t_total[:, None]), torch.exp(z - z_total[:, None])
            divergence = (p * t.sub_(z)).sum(1) - t_total + z_total
            grad = q - p
            if tv_weight is not None:
                late = tv_weight[rows]
                sign = 0.5 * grad.sign()
                divergence = (1 - late) * divergence + late * (sign * grad).sum(1)
                sign = (sign - (sign * q).sum(1, keepdim=True)) * q
                grad = (1 - late)[:, None] * grad + late[:, None] * sign
            value += (weights[rows] * divergence).sum()
            torch.mul(grad, weights[rows, None], out=grads[rows])
            own_grad[rows] = grads[rows] @ head
        ctx.save_for_backward(own_grad, (grads.T @ own).float())
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        own_grad, head_grad = ctx.saved_tensors
        return grads[0] * own_grad, grads[0] * head_grad, None, None, None, None


def optimiser(student: Student, rate: float) -> torch.optim.AdamW:
    norms = [p for n, p in student.named_parameters() if "norm" in n]
    head = [student.lm_head.weight]
    rest = [p for n, p in student.named_parameters() if "norm" not in n and "lm_head" not in n]
    groups = [
        {"params": rest, "scale": 1.0, "weight_decay": 0.05},
        {"params": head, "scale": 0.5, "weight_decay": 0.05},
        {"params": norms, "scale": 3.0, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def overlaps(logits: Tensor, log_p: Tensor) -> Tensor:
    """sum(min(p, q)) of every row [n]: the chance that a draft from logits [n, K] is kept, log_p [n, K] the target's."""
    return torch.minimum(log_p, functional.log_softmax(logits, 1)).exp().sum(1)


def measure(student: Student, data: HeldOut, k: int = 5) -> dict[str, dict[str, float]]:
    """Per temperature of the held-out answers: agreement, overlap (mean of sum min(p, q)), simulated tokens per pass."""
    result: dict[str, dict[str, float]] = {}
    student.eval()
    by_temperature: dict[float, list[tuple[NDArray[np.bool_], NDArray[np.float64]]]] = {}
    with torch.no_grad():
        for e, log_p, best in zip(data.examples, data.kept_logprobs, data.argmax, strict=True):
            own, _ = rows(student, [e])
            logits = student.lm_head(own)
            hit = student.kept_ids[logits.argmax(1)].numpy() == best
            by_temperature.setdefault(e.temperature, []).append((hit, overlaps(logits, log_p).double().numpy()))
    for temperature, found in sorted(by_temperature.items()):
        hits = [h for h, _ in found]
        chances = [o if temperature else h.astype(float) for h, o in found]
        result[f"T={temperature:g}"] = {
            "agreement": float(np.concatenate(hits).mean()),
            "overlap": float(np.concatenate([o for _, o in found]).mean()),
            "tokens_per_pass": tokens_per_pass(chances, k),
        }
    student.train()
    return result


def sharpening(student: Student, data: HeldOut) -> float:
    """By what to multiply the student's logits, so that the most of its drafts are kept at T = 1; one of SHARPENINGS.

    KL wants a student that spreads as wide as its doubts; sum(min(p, q)) is larger for one that does not. data: texts the
    student was trained on will do, since it is one number; only their answers count.
    """
    kept = torch.zeros(len(SHARPENINGS), dtype=torch.float64)
    with torch.no_grad():
        for e, log_p in zip(data.examples, data.kept_logprobs, strict=True):
            answer = torch.from_numpy(np.flatnonzero(e.scored) >= e.answer)
            logits = student.lm_head(rows(student, [e])[0])[answer]
            for place, factor in enumerate(SHARPENINGS):
                kept[place] += overlaps(logits * factor, log_p[answer]).sum()
    return SHARPENINGS[int(kept.argmax())]


def tokens_per_pass(chances: list[NDArray[np.float64]], k: int) -> float:
    """Expected emitted tokens a round, if draft i of a text is accepted with chance chances[i] by itself.

    The expected number of rounds follows by recursion from the end of each text; the first token is the prefill's.
    """
    emitted, rounds = 0, 0.0
    for chance in chances:
        n = len(chance)
        left = np.zeros(n + 1)  # expected rounds to emit tokens i..n-1
        for i in range(n - 1, -1, -1):
            alive, expected = 1.0, 1.0
            for j in range(k - 1):  # drafts i+j
                if i + j >= n:
                    break
                expected += alive * (1 - chance[i + j]) * left[min(i + j + 1, n)]
                alive *= chance[i + j]
            else:
                expected += alive * left[min(i + k, n)]
            left[i] = expected
        emitted += n - 1
        rounds += float(left[1]) if n > 1 else 0.0
    return emitted / rounds if rounds else float("nan")


def train(
    student: Student, examples: list[Example], output: Tensor, recipe: Recipe, folder: Path, data: HeldOut | None
) -> None:
    """Trains until `recipe.tokens` teacher's tokens are seen; goes on from `folder/state.pt` if it is there.

    output: the target's output layer [vocab, D]. Writes `curve.jsonl` and `state.pt` as it goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optim = optimiser(student, recipe.rate)
    seen, step, epoch, at, began = 0, 0, 0, 0, time.monotonic()
    state = folder / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        student.load_state_dict(saved["student"])
        optim.load_state_dict(saved["optim"])
        seen, step, epoch, at = saved["at"]
        began -= saved["seconds"]
    teacher_rows = output[student.kept_ids].to(torch.bfloat16 if recipe.bf16 else torch.float32)

    def share() -> float:
        """How much of the run is done."""
        return seen / recipe.tokens if recipe.minutes is None else (time.monotonic() - began) / 60 / recipe.minutes

    if share() >= 1:
        return
    progress = Progress("training", 1000)
    progress.resume(int(1000 * share()))
    running = float("nan")

    def save() -> None:
        partial = state.with_suffix(".partial")
        place = {"at": [seen, step, epoch, at], "seconds": time.monotonic() - began}
        torch.save({"student": student.state_dict(), "optim": optim.state_dict(), **place}, partial)
        partial.replace(state)

    def report() -> None:
        entry = {"tokens": seen, "step": step, "loss": running, **(measure(student, data) if data else {})}
        with (folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    (folder / "recipe.json").write_text(json.dumps(asdict(recipe)))
    if not step:
        report()
    marks = [mark / 8 for mark in range(1, 8) if mark / 8 > share()]
    while share() < 1:
        order = list(corpus.batches(examples, recipe.batch, recipe.seed, epoch))
        while at < len(order) and (done := share()) < 1:
            falling = max(0.0, (done - 1 + recipe.decay) / recipe.decay) if recipe.decay else 0.0
            factor = min(1.0, (step + 1) / recipe.warmup) * (1 - (1 - recipe.floor) * falling)
            for group in optim.param_groups:
                group["lr"] = recipe.rate * group["scale"] * factor
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                own, teacher = rows(student, order[at])
            # at T = 0 only the argmax counts, which total variation does not help
            hot, weights = kinds(order[at], recipe)
            late = recipe.late_weight * hot if done > 1 - recipe.late else None
            value = Loss.apply(own, student.lm_head.weight, teacher, teacher_rows, weights, late)
            optim.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optim.step()
            running = value.item() if math.isnan(running) else 0.98 * running + 0.02 * value.item()
            seen, step, at = seen + len(own), step + 1, at + 1
            progress.step(f"{seen} tokens, loss {running:.3f}", int(1000 * share()) - progress.count)
            if marks and share() >= marks[0]:
                marks.pop(0)
                report()
                save()
        if at >= len(order):
            epoch, at = epoch + 1, 0
    report()
    save()
    progress.close()
