"""A draft that sees its target: what it reads in the loop is what it would read of the text afresh."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends.toy import toy_pair
from app.engine.acceptance import ACCEPTORS
from app.engine.decode import Limits, decode
from app.engine.drafting import Drafter, EitherDrafter, LookupDrafter, ModelDrafter
from app.engine.model import StatesCache
from app.engine.sight import HostSight
from app.engine.windows import Cycle, Fixed, Windows
from app.record.trace import Sampling

WIDTH, PROMPT = 3, [0, 1, 3, 0, 1]


class Watched(ModelDrafter):
    """Keeps every round's context and the logits it drafted from."""

    seen: list[tuple[list[int], tuple[int, ...], NDArray[np.float32]]]

    def propose(self, context, *args, **kwargs):  # type: ignore[no-untyped-def]
        proposal = super().propose(context, *args, **kwargs)
        self.seen.append((list(context), proposal.ids, proposal.logits.copy()))
        return proposal


def expected(context: list[int], ids: tuple[int, ...]) -> NDArray[np.float32]:
    """The logits of these drafts behind this context, of caches that read nothing else."""
    target, draft, _ = toy_pair(6, seed=3, sighted=True)
    cache = cast(StatesCache, target.new_sequence())
    cache.forward(context, 1)
    before = np.zeros((len(context), 2 * WIDTH), np.float32)
    before[1:, :WIDTH] = cache.states[:-1]
    own = cast(StatesCache, draft.new_sequence())
    rows = [own.forward(context, 1, before)[0].copy()]
    for token in ids[:-1]:
        row = np.zeros((1, 2 * WIDTH), np.float32)
        row[0, WIDTH:] = own.states[-1]
        rows.append(own.forward([token], 1, row)[0].copy())
    return np.stack(rows)


@pytest.mark.parametrize("windows", [Fixed(4), Fixed(2), Cycle([1, 1, 5, 1, 2])], ids=["4", "2", "changing"])
@pytest.mark.parametrize("lookup", [False, True])
def test_every_draft_is_picked_from_what_a_fresh_reading_gives(windows: Windows, lookup: bool) -> None:
    target, draft, _ = toy_pair(6, seed=3, sighted=True)
    sampling = Sampling(1.0, seed=8)
    model = Watched(
        draft.new_sequence(),
        name="draft",
        vocab_size=6,
        sampling=sampling,
        stop_ids=frozenset(),
        sight=HostSight(WIDTH),
    )
    model.seen = []
    drafter: Drafter = EitherDrafter(model, LookupDrafter(6, frozenset())) if lookup else model
    rounds = decode(
        target.new_sequence(), drafter, PROMPT, windows=windows, sampling=sampling, acceptor=ACCEPTORS["rejection"],
        limits=Limits(60, 256, frozenset()), target_name="target",
    )  # fmt: skip
    kept = {sum(one.state == "accepted" for one in round_.drafted) for round_ in rounds}
    assert {0, 1} <= kept  # windows refused at once, and others, were read again
    seen = model.seen
    assert len(seen) > 8
    for context, ids, logits in seen:
        assert np.array_equal(logits, expected(context, ids)), context


def test_what_is_read_is_in_the_cache() -> None:
    """The toy can tell: another state beside an earlier token changes what follows."""
    _, draft, _ = toy_pair(6, seed=3, sighted=True)
    one, other = (cast(StatesCache, draft.new_sequence()) for _ in range(2))
    states = np.zeros((3, 2 * WIDTH), np.float32)
    first = one.forward([1, 2, 3], 1, states).copy()
    states[0, 1] = 1
    assert not np.array_equal(other.forward([1, 2, 3], 1, states), first)


def test_sight_gives_no_state_twice() -> None:
    sight = HostSight(2)
    sight.follow(np.array([[1, 2], [3, 4]], np.float32))
    assert sight.theirs(2).tolist() == [[0, 0, 0, 0], [1, 2, 0, 0]]
    assert sight.own(np.array([[9, 9], [5, 6]], np.float32)).tolist() == [[0, 0, 5, 6]]
    assert sight.theirs(1).tolist() == [[3, 4, 0, 0]]
    with pytest.raises(AssertionError):
        sight.theirs(1)
