"""`distill all`: from nothing but the target to packed drafts, in a given time, on whatever device there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.distill import ablation, helpers, objective, writing
from app.distill.helpers import Bench
from app.distill.pack import away, pack
from app.distill.plan import Log, Plan
from app.distill.student import Shape, Student
from app.distill.target import Target
from app.distill.texts import Batch, Dialogues, Numbers
from app.distill.train import Recipe, Teacher, endless, initialise, measure, scored_rows, sharpening, train
from app.distill.writer import FORCED
from app.errors import RequestError

Start = tuple[NDArray[np.int32], dict[str, Tensor]]
"""Kept ids and weights of an earlier draft."""


def everything(
    target: Target,
    prompts: Sequence[tuple[str, str]],
    plan: Plan,
    recipe: Recipe,
    start: Start | None,
    device: torch.device,
    name: str,
) -> None:
    """Writes drafts under `plan.out`: conditioned, plain and single, as far as they are planned, with their curves.
    name: the target's, for the drafts' configuration. Raises RequestError where there was no time to write anything."""
    log = Log(plan.out / "log.jsonl")
    bench = Bench(target.directory, tuple(target.tokenizer.stop_ids), tuple(text for _, text in prompts))
    with helpers.office(bench, plan.processes) as pool:
        written = writing.write(target, prompts, plan, device, pool, log)
        drawn = int((written.dialogues.kinds != FORCED).sum())
        log.note(dialogues=len(written.dialogues), drawn=drawn, read=len(written.dialogues.tokens))
        if not len(written.clean()):
            raise RequestError("The target wrote nothing to learn from in that time; give more --minutes.")
        _drafts(target, plan, recipe, start, device, name, written, log)


def _drafts(
    target: Target,
    plan: Plan,
    recipe: Recipe,
    start: Start | None,
    device: torch.device,
    name: str,
    written: writing.Written,
    log: Log,
) -> None:
    output, dialogues, layers = target.output_layer, written.dialogues, list(plan.layers)
    stops = target.config.stop_ids
    ids = start[0] if start else most_frequent(dialogues, written.clean(), plan.kept, len(output), stops)
    embedding = torch.tensor(target.weights.tensor("model.embed_tokens.weight"))
    teacher = Teacher.of(output, torch.from_numpy(ids.astype(np.int64)).to(device), recipe.bf16)
    shares = {"conditioned": 1 - plan.plain - plan.single, "plain": plan.plain, "single": plan.single}
    left, first = plan.minutes - log.minutes - 0.1, dict[str, Tensor]()
    if recipe.compiled:
        objective.compile_rows()
    for draft, share in shares.items():
        if not share:
            continue
        torch.manual_seed(plan.seed)
        chosen = layers[-1:] if draft == "single" else layers
        shape = Shape.of(target.weights, len(chosen))
        student = Student(shape, embedding, ids, draft != "plain").to(device)
        batches = endless(dialogues, written.clean, recipe, device)
        if draft == "single" and first:
            student.load_state_dict(last_layer(first, len(layers)))
        elif start:
            student.load_state_dict(start[1], strict=False)
        else:
            student.copy_layers(target.weights.tensor, chosen)
            initialise(student, batches, teacher)
        run = Run(draft, plan.out / draft, student, teacher, written.held_out, recipe.bf16, log, target, ids, name)
        seen = train(student, batches, teacher, replace(recipe, minutes=left * share), run.report)
        run.finish([next(batches) for _ in range(2)])
        first = first or {key: value.clone() for key, value in student.state_dict().items()}
        log.note(draft=draft, seen=seen, clean=len(written.clean()), recipe=asdict(recipe))
    if plan.ablation:
        ablation.compare(target, plan, recipe, written, teacher, embedding, ids, log)


def last_layer(state: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """A draft's weights without its layers but the last."""
    last = f"model.layers.{num_layers - 1}."
    return {
        key.replace(last, "model.layers.0."): value
        for key, value in state.items()
        if not key.startswith("model.layers.") or key.startswith(last)
    }


@dataclass(frozen=True, slots=True)
class Run:
    """One draft's training: its curve, and its files as it goes."""

    draft: str
    folder: Path
    student: Student
    teacher: Teacher
    held_out: list[Batch]
    bf16: bool
    log: Log
    target: Target
    ids: NDArray[np.int32]
    name: str

    def report(self, entry: dict[str, Any]) -> None:
        self.log.note(draft=self.draft, **entry, **measure(self.student, self.held_out, self.teacher, bf16=self.bf16))
        if entry.get("mark") == 6:  # whatever happens to the rest, there is something
            self.save()

    def save(self, batch: Batch | None = None) -> None:
        """Packs the draft as it is, and keeps its weights before they are rounded. batch: to find the row `unwanted`
        by."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.half().cpu() for key, value in self.student.state_dict().items()}
        torch.save({"student": state}, self.folder / "state.pt")
        np.save(self.folder / "kept_ids.npy", self.ids)
        batch = batch or self.held_out[0]
        with torch.no_grad(), torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self.student.hidden(batch.ids, batch.states[:, :-1]).flatten(0, 1)
        rows = torch.from_numpy(scored_rows(batch.kinds, 0)).to(hidden.device)
        arrays = {key: value.float().cpu().numpy() for key, value in self.student.state_dict().items()}
        pack(arrays, self.ids, away(hidden[rows].float().cpu().numpy()), self.target.config, self.name, self.folder)

    def finish(self, batches: list[Batch]) -> None:
        """Sharpens and packs."""
        factor = sharpening(self.student, batches, self.teacher, self.bf16)
        with torch.no_grad():
            self.student.lm_head.weight *= factor
        self.save(batches[0])
        figures = measure(self.student, self.held_out, self.teacher, bf16=self.bf16)
        self.log.note(draft=self.draft, sharpened=factor, **figures)


def most_frequent(
    dialogues: Dialogues, numbers: Numbers, count: int, vocab_size: int, always: Sequence[int]
) -> NDArray[np.int32]:
    """The `count` ids drawn most, ascending; `always` are among them."""
    drawn = np.zeros(vocab_size)
    for number in numbers:
        following = dialogues.ids(number)[1:]
        np.add.at(drawn, following[dialogues.kinds_of(number)[:-1] != FORCED], 1)
    drawn[list(always)] = np.inf
    return np.sort(np.argsort(-drawn, kind="stable")[:count]).astype(np.int32)
