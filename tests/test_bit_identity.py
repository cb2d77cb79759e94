"""On the embedded pair: both arms print the same tokens at temperature 0 with every lossless acceptor, and at any
temperature with `coupled`. 24 prompts x 128 tokens, each with one acceptor and window, so that every acceptor meets
every window; half of the prompts at temperature 1 too. Minutes, so not among the quick proofs of test_exact."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from app.engine.acceptance import ACCEPTORS
from app.engine.pair import Pair
from app.engine.session import Session
from app.record.metrics import Metrics
from app.record.trace import Request, Sampling

PER_CATEGORY, MAX_TOKENS = 4, 128
ENTRIES: list[dict[str, str]] = json.loads(
    (Path(__file__).parent.parent / "assets" / "prompts.json").read_text(encoding="utf-8")
)
CATEGORIES = sorted({entry["category"] for entry in ENTRIES})
LOSSLESS = [name for name, acceptor in ACCEPTORS.items() if acceptor.lossless]
WINDOWS, WARM_WINDOWS = (3, 4, 5, 8), (3, 5, 8, 16)


def asked_of(category: int, number: int) -> tuple[str, int]:
    """The acceptor and window of one prompt at temperature 0: all four acceptors in a category, each with another
    window in the next."""
    return LOSSLESS[number], WINDOWS[(category + number) % len(WINDOWS)]


def warm_of(category: int, number: int) -> int | None:
    """The window of one prompt at temperature 1; None for every other prompt, which is not asked."""
    return WARM_WINDOWS[number] if (category + number) % 2 == 0 else None


def test_there_are_24_prompts_and_4_lossless_acceptors_with_all_windows() -> None:
    prompts = list(product(range(len(CATEGORIES)), range(PER_CATEGORY)))
    assert len(prompts) == 24
    assert sorted(LOSSLESS) == ["block", "coupled", "exact", "rejection"]
    assert {asked_of(*each) for each in prompts} == set(product(LOSSLESS, WINDOWS))
    warm = [warm_of(*each) for each in prompts]
    assert warm.count(None) == 12
    assert {*warm} == {None, *WARM_WINDOWS}


def tokens(session: Session, request: Request) -> list[int]:
    metrics = Metrics(session.run(request))
    assert metrics.reason in ("stop", "length"), metrics.message
    (arm,) = metrics.arms.values()
    return arm.token_ids


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_arms_are_bit_identical(embedded: Pair, category: str) -> None:
    session = Session(embedded)
    prompts = [entry["prompt"] for entry in ENTRIES if entry["category"] == category][:PER_CATEGORY]
    lengths = []
    for number, prompt in enumerate(prompts):
        greedy = Request(prompt=prompt, max_tokens=MAX_TOKENS, arms="target")
        alone = tokens(session, greedy)
        lengths.append(len(alone))
        name, k = asked_of(CATEGORIES.index(category), number)
        assert tokens(session, replace(greedy, arms="speculative", acceptor=name, k=k)) == alone, (prompt, name)
        if warm_k := warm_of(CATEGORIES.index(category), number):
            warm = replace(greedy, acceptor="coupled", sampling=Sampling(temperature=1.0, seed=number))
            alone = tokens(session, warm)
            assert tokens(session, replace(warm, arms="speculative", k=warm_k)) == alone, prompt
    assert max(lengths) > 60  # the texts are long enough to part
