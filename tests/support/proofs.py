"""What the proofs of exactness share: toy pairs small enough to enumerate, the target's own distribution, one arm of
the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from app.backends.toy import Agreement, ToyModel, toy_pair
from app.engine.acceptance import ACCEPTORS, Acceptor
from app.engine.decode import Limits, decode
from app.engine.drafting import Drafter, EitherDrafter, LookupDrafter, ModelDrafter
from app.engine.sampling import warp
from app.engine.sight import HostSight
from app.engine.windows import Fixed, Windows
from app.record.trace import Round, Sampling

LOSSLESS = [name for name, acceptor in ACCEPTORS.items() if acceptor.lossless]
LOSSY = [name for name, acceptor in ACCEPTORS.items() if not acceptor.lossless]

SETTINGS = {
    "plain": Sampling(1.0),
    "hot": Sampling(5.0),
    "cool": Sampling(0.4),
    "top_k": Sampling(1.0, top_k=2),
    "top_p": Sampling(1.0, top_p=0.7),
    "all": Sampling(1.3, top_p=0.8, top_k=3),
}
Joint = dict[tuple[int, ...], float]
More = Callable[[tuple[int, ...]], bool]


@dataclass(frozen=True)
class Pair:
    """A toy target and draft, with what both are asked."""

    target: ToyModel
    draft: ToyModel
    prompt: tuple[int, ...] = (0, 1)

    @staticmethod
    def of(
        agreement: Agreement,
        *,
        trimmed: tuple[int, ...] = (),
        padding: tuple[int, int] = (0, 0),
        size: int = 4,
        sighted: bool = False,
    ) -> Pair:
        target, draft, _ = toy_pair(
            size, seed=11, agreement=agreement, trimmed=trimmed, padding=padding, sighted=sighted
        )
        return Pair(target, draft)

    def target_probs(self, context: tuple[int, ...], sampling: Sampling) -> NDArray[np.float32]:
        return _probs(self.target, context, sampling)

    def draft_probs(self, context: tuple[int, ...], sampling: Sampling) -> NDArray[np.float32]:
        return _probs(self.draft, context, sampling)


@cache
def _probs(model: ToyModel, context: tuple[int, ...], sampling: Sampling) -> NDArray[np.float32]:
    """Kept: the proofs ask for the same few rows again and again."""
    row = warp(model.logits(context)[None], sampling).reshape(-1)
    row.flags.writeable = False
    return row


PAIRS = {
    "same": Pair.of("same"),
    "good": Pair.of("good"),
    "bad": Pair.of("bad"),
    "adversarial": Pair.of("adversarial"),
    "trimmed": Pair.of("good", trimmed=(0, 2)),
    "wide draft": Pair.of("good", padding=(0, 3)),
    "wide target": Pair.of("bad", padding=(3, 0)),
    # of the loop: enumerated, its draft reads no states, and is like any other
    "sighted": Pair.of("good", sighted=True),
    # q is one-hot, as a lookup's is
    "certain": Pair(Pair.of("good").target, ToyModel(vocab_size=4, seed=11, agreement="good", sharpness=1e4)),
}
REPEATING = replace(PAIRS["good"], prompt=(0, 1, 3, 0, 1, 0, 1, 2, 0, 1))
"""A prompt with something to look up, whatever is said first."""


def target_joint(pair: Pair, sampling: Sampling, length: int, stop_ids: frozenset[int] = frozenset()) -> Joint:
    """The target's own distribution of the first `length` tokens (fewer where a stop token ends them)."""
    joint: Joint = {(): 1.0}
    for _ in range(length):
        longer: Joint = {}
        for tokens, chance in joint.items():
            if tokens and tokens[-1] in stop_ids:
                longer[tokens] = chance
                continue
            row = pair.target_probs(pair.prompt + tokens, sampling).astype(np.float64)
            for token in np.flatnonzero(row):
                longer[(*tokens, int(token))] = chance * row[token] / row.sum()
        joint = longer
    return joint


def total_variation(one: Mapping[tuple[int, ...], float], other: Mapping[tuple[int, ...], float]) -> float:
    return sum(abs(one.get(key, 0) - other.get(key, 0)) for key in one.keys() | other.keys()) / 2


def rounds(
    pair: Pair,
    acceptor: Acceptor,
    sampling: Sampling,
    k: int | Windows,
    *,
    max_tokens: int = 32,
    stop_ids: frozenset[int] = frozenset(),
    n_positions: int = 256,
    alone: bool = False,
    drafted_by: str = "draft",
) -> Iterator[Round]:
    """One arm over the pair, its sequences closed again."""
    target, draft = pair.target.new_sequence(), pair.draft.new_sequence()
    model = ModelDrafter(
        draft,
        name=pair.draft.name,
        vocab_size=pair.draft.vocab_size,
        sampling=sampling,
        stop_ids=stop_ids,
        kept_ids=pair.draft.kept_ids,
        sight=HostSight(pair.target.state_width or 0) if pair.draft.reads_states else None,
    )
    lookup = LookupDrafter(pair.target.vocab_size, stop_ids)
    drafters: dict[str, Drafter] = {"draft": model, "lookup": lookup, "draft+lookup": EitherDrafter(model, lookup)}
    drafter = drafters[drafted_by]
    try:
        yield from decode(
            target,
            None if alone else drafter,
            pair.prompt,
            windows=Fixed(k) if isinstance(k, int) else k,
            sampling=sampling,
            acceptor=acceptor,
            limits=Limits(max_tokens, n_positions, stop_ids),
            target_name=pair.target.name,
        )
    finally:
        target.close()
        model.close()


def first_tokens(arm: Iterator[Round], length: int) -> tuple[int, ...]:
    tokens: list[int] = []
    for one in arm:
        tokens += one.token_ids
        if len(tokens) >= length:
            break
    return tuple(tokens[:length])
