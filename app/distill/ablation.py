"""What each ingredient of the recipe gives: drafts that go without one of them, all begun from the target's layers and
trained on as many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.distill.plan import Log, Plan
from app.distill.student import Shape, Student
from app.distill.target import Target
from app.distill.texts import Batch
from app.distill.train import Recipe, Teacher, endless, initialise, measure, scored_rows, train
from app.distill.writing import Written


@dataclass(frozen=True, slots=True)
class Without:
    """What a draft goes without. conditioned, unrolled, late: as in `Student` and `Recipe`. layers: how many of the
    planned ones, the last; None: all. texts: the share of the dialogues it learns from."""

    conditioned: bool = True
    unrolled: bool = True
    late: bool = True
    layers: int | None = None
    texts: float = 1.0


VARIANTS = {
    "nothing left out": Without(),
    "no states of the target": Without(conditioned=False),
    "not unrolled": Without(unrolled=False),
    "KL divergence to the end": Without(late=False),
    "one layer": Without(layers=1),
    "a quarter of the texts": Without(texts=0.25),
}


class Tokens:
    """A clock of tokens: a minute has passed when the batches it hands on have held `total` drawn ones."""

    def __init__(self, batches: Iterator[Batch], total: int) -> None:
        self._batches, self._total, self._seen = batches, total, 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            yield batch
            self._seen += len(scored_rows(batch.kinds, 0))

    def __call__(self) -> float:
        return 60 * self._seen / self._total


def compare(
    target: Target,
    plan: Plan,
    recipe: Recipe,
    written: Written,
    teacher: Teacher,
    embedding: Tensor,
    ids: NDArray[np.int32],
    log: Log,
) -> None:
    """Notes for every variant, after `plan.ablation` drawn tokens, how its drafts fare on the held-out prompts."""
    device = teacher.kept.device
    for name, without in VARIANTS.items():
        torch.manual_seed(plan.seed)
        layers = list(plan.layers)[-(without.layers or len(plan.layers)) :]
        student = Student(Shape.of(target.weights, len(layers)), embedding, ids, without.conditioned).to(device)
        student.copy_layers(target.weights.tensor, layers)
        share = int(np.ceil(without.texts * len(written.clean())))

        def numbers(share: int = share) -> Any:
            return written.clean()[:share]

        own = replace(
            recipe,
            minutes=1.0,
            by_place=recipe.by_place if without.unrolled else recipe.by_place[:1],
            late=recipe.late if without.late else 0.0,
        )
        batches = endless(written.dialogues, numbers, own, device)
        initialise(student, batches, teacher)
        clock = Tokens(batches, plan.ablation)
        seen = train(student, iter(clock), teacher, own, lambda entry: None, clock=clock)
        figures = measure(student, written.held_out, teacher, bf16=recipe.bf16)
        log.note(without=name, seen=seen, dialogues=share, **figures)
