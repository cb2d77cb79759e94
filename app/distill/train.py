"""Training the draft on the target's distributions, unrolled over the drafts of a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.distill.objective import Divergence
from app.distill.student import Student, ridge
from app.distill.texts import Batch, Dialogues, Numbers
from app.distill.writer import ASKED, COLD, FORCED, HOT, product

SHARPENINGS = tuple(round(0.8 + 0.05 * step, 2) for step in range(17))


@dataclass(frozen=True, slots=True)
class Recipe:
    """minutes: by the clock. batch: padded tokens a step. rate: after `warmup` steps it stays, and falls in a straight
    line to `floor` times itself over the last `decay` of the run. by_place: weights in the loss of a round's first,
    second, ... draft. late: the last share of the run, over which the loss becomes what decides acceptance, up to
    `late_hot` and `late_cold` of it above T = 0 and at it. asked_weight, cold_weight: of tokens of instructions and of
    answers at T = 0, beside 1 for answers above it. bf16: matrix products in bf16; weights, sums and the loss stay in
    float32. compiled: the loss by torch.compile."""

    minutes: float
    batch: int = 1536
    rate: float = 1.5e-3
    decay: float = 0.7
    floor: float = 0.02
    warmup: int = 40
    by_place: tuple[float, ...] = (1.0, 0.8, 0.6)
    late: float = 0.6
    late_hot: float = 0.8
    late_cold: float = 0.3
    asked_weight: float = 0.5
    cold_weight: float = 1.5
    bf16: bool = False
    compiled: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Teacher:
    """The target's output layer: over the kept ids [K, D] in the type of the products, and whole [V, D]."""

    kept: Tensor
    whole: Tensor

    @staticmethod
    def of(output: NDArray[np.float32], kept_ids: Tensor, bf16: bool) -> Teacher:
        whole = torch.tensor(output).to(kept_ids.device, torch.bfloat16 if bf16 else torch.float32)
        return Teacher(whole[kept_ids].contiguous(), whole)


def scored_rows(kinds: NDArray[np.uint8], number: int) -> Numbers:
    """Places in [B * T] from which the `number`-th draft of a round (0 the first) could be picked and judged: the
    target drew what follows them, and what the drafts before stood at."""
    drawn = kinds != FORCED
    fits = drawn.copy()
    for earlier in range(1, number + 1):
        fits[:, earlier:] &= drawn[:, :-earlier]
        fits[:, :earlier] = False
    return np.flatnonzero(fits)


def optimiser(student: Student, rate: float) -> torch.optim.AdamW:
    def named(*parts: str) -> list[Any]:
        return [p for name, p in student.named_parameters() if any(part in name for part in parts)]

    groups = [
        {"params": named("_proj"), "scale": 1.0, "weight_decay": 0.05},
        {"params": named("lm_head"), "scale": 0.5, "weight_decay": 0.05},
        {"params": named("norm"), "scale": 3.0, "weight_decay": 0.0},
        # states are ten times as large as embeddings, to which they are added
        {"params": named("fusion"), "scale": 0.15, "weight_decay": 0.05},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=(0.9, 0.95), fused=True)


def initialise(student: Student, batches: Iterator[Batch], teacher: Teacher, tokens: int = 20_000) -> None:
    """Sets the output layer by `ridge` on about `tokens` tokens."""
    seen, own, theirs = 0, list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for batch in batches:
            rows = torch.from_numpy(scored_rows(batch.kinds, 0)).to(batch.ids.device)
            own.append(student.hidden(batch.ids, batch.states[:, :-1]).flatten(0, 1)[rows].float())
            theirs.append(batch.states[:, 1:].flatten(0, 1)[rows].float())
            seen += len(rows)
            if seen >= tokens:
                break
        student.lm_head.weight.copy_(ridge(torch.cat(own), torch.cat(theirs), teacher.kept.float()))


def loss(student: Student, batch: Batch, teacher: Teacher, recipe: Recipe, late: float) -> tuple[Tensor, int]:
    """(Weighted mean over the batch's tokens, its tokens). late: 0 to 1, how much of the late loss there is."""
    device = batch.ids.device
    depth = len(recipe.by_place) if student.conditioned else 1
    by_kind = np.zeros(4, np.float32)
    by_kind[[ASKED, COLD, HOT]] = recipe.asked_weight, recipe.cold_weight, 1.0
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
        states = student.unrolled(batch.ids, batch.states[:, :-1], depth)
    flat, target = batch.kinds.reshape(-1), batch.states[:, 1:].flatten(0, 1)
    total, chain, count, scale = torch.zeros((), device=device), None, 0, 1.0
    for number, (own, place_weight) in enumerate(zip(states, recipe.by_place, strict=False)):
        rows = scored_rows(batch.kinds, number)
        kinds, at = flat[rows], torch.from_numpy(rows).to(device, non_blocking=True)
        weights = by_kind[kinds]
        if number == 0:
            count, scale = len(rows), float(weights.sum()) or 1.0  # a small batch may hold nothing that was drawn
        lateness = np.select([kinds == COLD, kinds == HOT], [late * recipe.late_cold, late * recipe.late_hot], 0.0)
        weight, lateness, cold = (
            torch.from_numpy(array).to(device, non_blocking=True)
            for array in (weights * np.float32(place_weight / scale), lateness.astype(np.float32), kinds == COLD)
        )
        before = None if chain is None else chain[at - 1]
        if before is not None:
            # a draft is judged only where those before it were kept
            weight = weight * (0.2 + 0.8 * before)
        value, kept = Divergence.apply(
            own.flatten(0, 1)[at], student.lm_head.weight, target[at], teacher.kept, weight, lateness, cold
        )
        total = total + value
        chain = torch.zeros(len(flat), device=device)
        chain[at] = kept if before is None else kept * before
    return total, count


def train(
    student: Student,
    batches: Iterator[Batch],
    teacher: Teacher,
    recipe: Recipe,
    report: Callable[[dict[str, Any]], None],
    marks: int = 8,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Trains for `recipe.minutes` on endless `batches`; reports at the begin, `marks` times on the way and at the end.
    Returns the tokens seen."""
    optim, began = optimiser(student, recipe.rate), clock()
    seen, step, mark = 0, 0, 0
    running: Tensor | None = None
    for batch in batches:
        done = (clock() - began) / 60 / recipe.minutes
        if done * marks >= mark and mark < marks:
            mark = int(done * marks) + 1
            entry = {"mark": mark - 1, "seconds": round(clock() - began, 1), "tokens": seen, "step": step}
            report(entry | {"loss": None if running is None else round(float(running), 4)})
        if done >= 1:
            break
        falling = max(0.0, (done - 1 + recipe.decay) / recipe.decay) if recipe.decay else 0.0
        factor = min(1.0, (step + 1) / recipe.warmup) * (1 - (1 - recipe.floor) * falling)
        for group in optim.param_groups:
            group["lr"] = recipe.rate * group["scale"] * factor
        late = max(0.0, (done - 1 + recipe.late) / recipe.late) if recipe.late else 0.0
        value, count = loss(student, batch, teacher, recipe, late)
        optim.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optim.step()
        value = value.detach()
        running = value if running is None else running.lerp(value, 0.02)
        seen, step = seen + count, step + 1
    report(
        {
            "seconds": round(clock() - began, 1),
            "tokens": seen,
            "step": step,
            "loss": None if running is None else round(float(running), 4),
        }
    )
    return seen


def endless(
    dialogues: Dialogues, numbers: Callable[[], Numbers], recipe: Recipe, device: torch.device
) -> Iterator[Batch]:
    """Batches of these dialogues, epoch after epoch. numbers: which they are, asked before each."""
    epoch = 0
    while True:
        yield from dialogues.batches(numbers(), recipe.batch, recipe.seed, epoch, device)
        epoch += 1


@torch.no_grad()
def chances(student: Student, batch: Batch, teacher: Teacher, depth: int, bf16: bool) -> tuple[Tensor, Tensor]:
    """For each place of a batch and each draft of a round, [depth, B, T]: whether the likeliest id is the target's own,
    and sum(min(p, q)), p over the whole vocabulary. 0 where the target drew nothing."""
    device, shape = batch.ids.device, batch.ids.shape
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        states = student.unrolled(batch.ids, batch.states[:, :-1], depth)
    states += states[-1:] * (depth - len(states))
    rows = torch.from_numpy(scored_rows(batch.kinds, 0)).to(device)
    target = batch.states[:, 1:].flatten(0, 1)
    same, kept = (torch.zeros((depth, shape[0] * shape[1]), device=device) for _ in range(2))
    head = student.lm_head.weight.to(teacher.kept.dtype)
    for part in rows.split(4096):
        t = product(target[part].to(teacher.whole.dtype), teacher.whole)
        log_p, best = t[:, student.kept_ids] - t.logsumexp(1, keepdim=True), t.argmax(1)
        for number, own in enumerate(states):
            z = product(own.flatten(0, 1)[part].to(head.dtype), head)
            same[number, part] = (student.kept_ids[z.argmax(1)] == best).float()
            kept[number, part] = torch.minimum(log_p, z.log_softmax(1)).exp().sum(1)
    return same.view(depth, *shape), kept.view(depth, *shape)


def measure(
    student: Student, batches: Sequence[Batch], teacher: Teacher, k: int = 5, bf16: bool = False
) -> dict[str, dict[str, Any]]:
    """Of answers at T = 0 and above it: the chance that a round's first, second, ... draft is kept where those before
    it stood in the text, and the tokens a pass that follow."""
    answers: dict[str, list[NDArray[np.float64]]] = {"cold": [], "hot": []}
    for batch in batches:
        same, kept = (each.cpu().numpy().astype(np.float64) for each in chances(student, batch, teacher, k - 1, bf16))
        for name, kind, each in (("cold", COLD, same), ("hot", HOT, kept)):
            answers[name] += [each[:, row, batch.kinds[row] == kind] for row in range(len(batch.kinds))]
    result: dict[str, dict[str, Any]] = {}
    for name, every in answers.items():
        texts = [text for text in every if text.shape[1] > 1]
        if texts:
            together = np.concatenate(texts, 1)
            result[name] = {
                "kept": [round(float(share), 4) for share in together.mean(1)],
                "tokens_per_pass": round(tokens_per_pass(texts), 4),
            }
    return result


def tokens_per_pass(texts: list[NDArray[np.float64]]) -> float:
    """Expected tokens a round of len(chances) drafts emits, if draft j of a round that begins at token i of a text is
    kept with chance chances[j, i + j] by itself.

    The expected number of rounds follows by recursion from the end of each text; the first token is the prefill's.
    """
    emitted, rounds = 0, 0.0
    for chance in texts:
        drafts, n = chance.shape
        left = np.zeros(n + 1)  # expected rounds to emit tokens i..n-1
        for i in range(n - 1, -1, -1):
            alive, expected = 1.0, 1.0
            for j in range(drafts):
                if i + j >= n:
                    break
                expected += alive * (1 - chance[j, i + j]) * left[min(i + j + 1, n)]
                alive *= chance[j, i + j]
            else:
                expected += alive * left[min(i + drafts + 1, n)]
            left[i] = expected
        emitted += n - 1
        rounds += float(left[1]) if n > 1 else 0.0
    return emitted / rounds if rounds else float("nan")


@torch.no_grad()
def sharpening(student: Student, batches: list[Batch], teacher: Teacher, bf16: bool = False) -> float:
    """By what to multiply the student's logits, so that the most of its first drafts are kept at T = 1; one of
    SHARPENINGS.

    KL wants a student that spreads as wide as its doubts; sum(min(p, q)) is larger for one that does not. Texts the
    student was trained on will do, since it is one number; only answers above T = 0 count.
    """
    kept = torch.zeros(len(SHARPENINGS), dtype=torch.float64)
    head = student.lm_head.weight.to(teacher.kept.dtype)
    for batch in batches:
        device = batch.ids.device
        rows = torch.from_numpy(np.flatnonzero(batch.kinds == HOT)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            own = student.hidden(batch.ids, batch.states[:, :-1]).flatten(0, 1)
        target = batch.states[:, 1:].flatten(0, 1)
        for part in rows.split(4096):
            log_p = product(target[part].to(teacher.kept.dtype), teacher.kept).log_softmax(1)
            z = product(own[part].to(head.dtype), head)
            for place, factor in enumerate(SHARPENINGS):
                kept[place] += torch.minimum(log_p, (z * factor).log_softmax(1)).exp().sum().item()
    return SHARPENINGS[int(kept.argmax())]
