"""The proofs that speculation changes speed and nothing else: `pytest -k exact`.

Three kinds. *Enumeration*: every window a draft can propose, every verdict on it with its probability taken from the
thresholds the acceptor flips its coins against, and so the exact distribution of what is emitted. *Sampling*: the
round loop itself over thousands of seeds, its first tokens against the target's own distribution by chi-square, where
the same test must refuse the lossy acceptors. *Identity*: both arms print the same tokens where that is promised.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from app.backends.toy import Agreement, ToyModel, toy_pair
from app.engine.acceptance import ACCEPTORS, Acceptor, Block, Verdict
from app.engine.decode import Limits, decode
from app.engine.drafting import Drafter, EitherDrafter, LookupDrafter, ModelDrafter
from app.engine.noise import Purpose
from app.engine.sampling import warp
from app.engine.windows import Adaptive, Costs, Fixed, Windows
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
        agreement: Agreement, *, trimmed: tuple[int, ...] = (), padding: tuple[int, int] = (0, 0), size: int = 4
    ) -> Pair:
        target, draft, _ = toy_pair(size, seed=11, agreement=agreement, trimmed=trimmed, padding=padding)
        return Pair(target, draft)

    def target_probs(self, context: tuple[int, ...], sampling: Sampling) -> NDArray[np.float32]:
        return warp(self.target.logits(context)[None], sampling).reshape(-1)

    def draft_probs(self, context: tuple[int, ...], sampling: Sampling) -> NDArray[np.float32]:
        return warp(self.draft.logits(context)[None], sampling).reshape(-1)


PAIRS = {
    "same": Pair.of("same"),
    "good": Pair.of("good"),
    "bad": Pair.of("bad"),
    "adversarial": Pair.of("adversarial"),
    "trimmed": Pair.of("good", trimmed=(0, 2)),
    "wide draft": Pair.of("good", padding=(0, 3)),
    "wide target": Pair.of("bad", padding=(3, 0)),
    # q is one-hot, as a lookup's is
    "certain": Pair(Pair.of("good").target, ToyModel(vocab_size=4, seed=11, agreement="good", sharpness=1e4)),
}


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


# --- enumeration ---


@dataclass(frozen=True)
class Coins:
    """Stands in for a round's noise: the coins of the judged drafts are given."""

    coins: tuple[float, ...]

    def uniform(self, offset: int, purpose: Purpose) -> float:
        return self.coins[offset] if purpose is Purpose.ACCEPT else 0.5


def windows(
    acceptor: Acceptor, pair: Pair, sampling: Sampling, drafts: int, more: More = lambda ids: True
) -> Iterator[tuple[tuple[int, ...], float, NDArray[np.float32], NDArray[np.float32]]]:
    """Every window the draft can propose: its tokens, its probability, the draft's and the target's rows.

    more: whether drafting goes on after these drafts; `drafts` are the most there are.
    """

    def end(ids: tuple[int, ...]) -> int:
        return next((i for i in range(1, drafts) if not more(ids[:i])), drafts)

    whole = itertools.product(range(pair.draft.vocab_size), repeat=drafts)
    for ids in dict.fromkeys(ids[: end(ids)] for ids in whole):
        contexts = [pair.prompt + ids[:i] for i in range(len(ids) + 1)]
        draft_rows = np.stack([pair.draft_probs(context, sampling) for context in contexts[:-1]])
        chance = 1.0
        for row, token in zip(draft_rows, ids, strict=True):
            proposed = row if acceptor.name != "upstream" else np.eye(row.size, dtype=np.float32)[row.argmax()]
            chance *= float(proposed[token]) / float(proposed.sum(dtype=np.float64))
        if chance:
            yield ids, chance, draft_rows, np.stack([pair.target_probs(context, sampling) for context in contexts])


def verdicts(
    acceptor: Acceptor, ids: tuple[int, ...], draft_rows: NDArray[np.float32], target_rows: NDArray[np.float32]
) -> Iterator[tuple[float, Verdict]]:
    """Every number of drafts kept, with its probability and a verdict that keeps as many."""

    def judge(*coins: float) -> Verdict:
        return acceptor(ids, draft_rows, target_rows, Coins(coins))  # type: ignore[arg-type]

    g, never = len(ids), 1 - 2.0**-53
    thresholds = [float(judgement.threshold or 0) for judgement in judge(*[0.0] * g).judgements]
    thresholds += [0.0] * (g - len(thresholds))  # a threshold of 0 ends the judging
    for kept in range(g + 1):
        if acceptor.name == "block":  # the last coin that passes counts
            chance = float(np.prod([1 - h for h in thresholds[kept:]])) * (thresholds[kept - 1] if kept else 1)
        else:  # the first coin that fails counts
            chance = float(np.prod(thresholds[:kept])) * (1 - thresholds[kept] if kept < g else 1)
        if chance > 0:
            verdict = judge(*[0.0] * kept, *[never] * (g - kept))
            assert verdict.num_accepted == kept
            yield chance, verdict


def emitted_joint(
    acceptor: Acceptor, pair: Pair, sampling: Sampling, drafts: int, more: More = lambda ids: True
) -> tuple[Joint, float]:
    """The exact distribution of the next drafts + 1 tokens, one round and then the target alone; and E[kept]."""
    joint: Joint = defaultdict(float)
    expected = 0.0
    for ids, chance, draft_rows, target_rows in windows(acceptor, pair, sampling, drafts, more):
        for likely, verdict in verdicts(acceptor, ids, draft_rows, target_rows):
            kept = verdict.num_accepted
            expected += chance * likely * kept
            final = target_rows[kept] if verdict.residual is None else verdict.residual
            for token in np.flatnonzero(final):
                begun = (*ids[:kept], int(token))
                share = chance * likely * float(final[token]) / float(final.sum(dtype=np.float64))
                rest = replace(pair, prompt=pair.prompt + begun)
                for tokens, then in target_joint(rest, sampling, drafts - kept).items():
                    joint[begun + tokens] += share * then
    return joint, expected


@pytest.mark.parametrize("name", ["rejection", "block"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_enumeration_of_a_window_is_the_targets_joint_distribution(pair: str, setting: str, name: str) -> None:
    emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS[pair], SETTINGS[setting], 2)
    assert total_variation(emitted, target_joint(PAIRS[pair], SETTINGS[setting], 3)) < 1e-6


def test_exact_enumeration_of_a_longer_window() -> None:
    for name in ("rejection", "block"):
        emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS["bad"], SETTINGS["plain"], 3)
        assert total_variation(emitted, target_joint(PAIRS["bad"], SETTINGS["plain"], 4)) < 1e-6


@pytest.mark.parametrize("name", ["rejection", "block"])
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_enumeration_of_windows_that_end_by_what_was_drafted(pair: str, name: str) -> None:
    for more in (lambda ids: ids[-1] % 2 == 0, lambda ids: len(ids) < 2 and ids[-1] == 3):
        emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS[pair], SETTINGS["plain"], 3, more)
        assert total_variation(emitted, target_joint(PAIRS[pair], SETTINGS["plain"], 4)) < 1e-6


@pytest.mark.parametrize("name", ["lenient", "upstream"])
def test_exact_enumeration_convicts_the_lossy(name: str) -> None:
    emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS["good"], SETTINGS["plain"], 2)
    assert total_variation(emitted, target_joint(PAIRS["good"], SETTINGS["plain"], 3)) > 0.05


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_rejection_keeps_a_draft_as_often_as_the_distributions_overlap(pair: str, setting: str) -> None:
    _, kept = emitted_joint(ACCEPTORS["rejection"], PAIRS[pair], SETTINGS[setting], 1)
    p, q = (rows(PAIRS[pair].prompt, SETTINGS[setting]) for rows in (PAIRS[pair].target_probs, PAIRS[pair].draft_probs))
    shared = min(p.size, q.size)
    assert kept == pytest.approx(np.minimum(p[:shared], q[:shared]).sum(), abs=1e-6)


def test_exact_block_keeps_at_least_as_many_as_rejection() -> None:
    gains = []
    for pair, setting in itertools.product(PAIRS.values(), SETTINGS.values()):
        (_, by_block), (_, by_rejection) = (
            emitted_joint(ACCEPTORS[name], pair, setting, 2) for name in ("block", "rejection")
        )
        gains.append(by_block - by_rejection)
    assert min(gains) > -1e-6
    assert max(gains) > 0.03


# --- the meter ---


def rounds_of(name: str, pair: Pair, sampling: Sampling) -> Iterator[float]:
    """total_variation of every window of two drafts that can be proposed."""
    acceptor = ACCEPTORS[name]
    for ids, _, draft_rows, target_rows in windows(acceptor, pair, sampling, 2):
        distance = acceptor.total_variation(ids, draft_rows, target_rows)
        assert distance is not None
        yield distance


@pytest.mark.parametrize("name", LOSSLESS)
def test_exact_meter_reads_zero_for_the_lossless(name: str) -> None:
    for pair, setting in itertools.product(PAIRS.values(), SETTINGS.values()):
        assert max(rounds_of(name, pair, setting)) < 1e-6


@pytest.mark.parametrize("name", LOSSY)
def test_exact_meter_shows_the_lossy(name: str) -> None:
    assert max(rounds_of(name, PAIRS["good"], SETTINGS["plain"])) > 0.1


@pytest.mark.parametrize("name", ["rejection", "block", "lenient", "upstream"])
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_meter_agrees_with_enumeration(pair: str, name: str) -> None:
    """One draft: the first emitted token's distribution, by the formula and by going through all that can happen."""
    sampling = SETTINGS["plain"]
    emitted, _ = emitted_joint(ACCEPTORS[name], PAIRS[pair], sampling, 1)
    first: Joint = defaultdict(float)
    for tokens, chance in emitted.items():
        first[tokens[:1]] += chance
    ids, _, draft_rows, target_rows = next(windows(ACCEPTORS[name], PAIRS[pair], sampling, 1))
    expected = total_variation(first, target_joint(PAIRS[pair], sampling, 1))
    assert ACCEPTORS[name].total_variation(ids, draft_rows, target_rows) == pytest.approx(expected, abs=1e-6)


def test_exact_meter_shows_a_block_with_a_wrong_threshold() -> None:
    class Hasty(Block):
        def _prefixes(self, *window):  # type: ignore[no-untyped-def]
            return [replace(prefix, passes=prefix.probability) for prefix in super()._prefixes(*window)]

    distances = [
        Hasty().total_variation(ids, draft_rows, target_rows)
        for ids, _, draft_rows, target_rows in windows(Block(), PAIRS["bad"], SETTINGS["plain"], 2)
    ]
    assert max(distances) > 0.01


# --- sampling, through the loop ---


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


def chi_square(counts: Mapping[tuple[int, ...], int], joint: Joint) -> float:
    """The p-value of the counts under the distribution; cells expecting fewer than 5 are taken together."""
    runs = sum(counts.values())
    if any(joint.get(tokens, 0) == 0 for tokens in counts):
        return 0.0
    often = [tokens for tokens, chance in joint.items() if chance * runs >= 5]
    observed = [counts.get(tokens, 0) for tokens in often]
    expected = [joint[tokens] * runs for tokens in often]
    if runs - sum(expected) > 1e-6 * runs:
        observed.append(runs - sum(observed))
        expected.append(runs - sum(expected))
    if len(observed) < 2:
        return 1.0
    scale = sum(observed) / sum(expected)
    return float(stats.chisquare(observed, np.multiply(expected, scale)).pvalue)


RUNS = 800
LENGTH = 3
LOOPS = {
    "good, k = 5": ("good", "plain", 5),
    "bad, k = 3": ("bad", "plain", 3),
    "adversarial, top_p, k = 4": ("adversarial", "top_p", 4),
    "trimmed, all, k = 2": ("trimmed", "all", 2),
}


def sampled(name: str, loop: str, stop_ids: frozenset[int] = frozenset()) -> tuple[float, Counter[tuple[int, ...]]]:
    pair, setting, k = LOOPS[loop]
    counts = Counter(
        first_tokens(
            rounds(PAIRS[pair], ACCEPTORS[name], replace(SETTINGS[setting], seed=seed), k, stop_ids=stop_ids), LENGTH
        )
        for seed in range(RUNS)
    )
    return chi_square(counts, target_joint(PAIRS[pair], SETTINGS[setting], LENGTH, stop_ids)), counts


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("loop", LOOPS)
def test_exact_loop_emits_the_targets_joint_distribution(loop: str, name: str) -> None:
    p_value, counts = sampled(name, loop)
    assert p_value > 1e-3
    assert len(counts) > 3


@pytest.mark.parametrize("name", ["rejection", "block"])
def test_exact_loop_with_stop_tokens_in_the_window(name: str) -> None:
    p_value, counts = sampled(name, "good, k = 5", frozenset({0, 2}))
    assert p_value > 1e-3
    assert {len(tokens) for tokens in counts} == {1, 2, 3}


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("pair", ["good", "bad", "trimmed"])
def test_exact_loop_with_windows_that_end_where_the_draft_is_unsure(pair: str, name: str) -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    ends: Counter[int] = Counter()
    for seed in range(RUNS):
        sampling, windows = replace(SETTINGS["plain"], seed=seed), Adaptive(Costs(((1, 1.0), (16, 4.0))), range(2, 17))
        arm = list(rounds(PAIRS[pair], ACCEPTORS[name], sampling, windows, max_tokens=6))
        counts[first_tokens(iter(arm), LENGTH)] += 1
        ends.update(len(one.drafted) for one in arm if one.drafted and one.finish_reason is None)
    assert chi_square(counts, target_joint(PAIRS[pair], SETTINGS["plain"], LENGTH)) > 1e-3
    assert sum(count > RUNS / 20 for count in ends.values()) > 2


@pytest.mark.parametrize("name", LOSSY)
def test_exact_loop_has_the_power_to_refuse_the_lossy(name: str) -> None:
    p_value, _ = sampled(name, "good, k = 5")
    assert p_value < 1e-9


REPEATING = replace(PAIRS["good"], prompt=(0, 1, 3, 0, 1, 0, 1, 2, 0, 1))
"""A prompt with something to look up, whatever is said first."""


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("drafted_by", ["lookup", "draft+lookup"])
def test_exact_loop_with_tokens_looked_up(drafted_by: str, name: str) -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    sources: Counter[str | None] = Counter()
    for seed in range(RUNS):
        arm = list(rounds(REPEATING, ACCEPTORS[name], Sampling(1.0, seed=seed), 3, max_tokens=5, drafted_by=drafted_by))
        counts[first_tokens(iter(arm), LENGTH)] += 1
        sources.update(one.source for one in arm if one.drafted)
    assert chi_square(counts, target_joint(REPEATING, SETTINGS["plain"], LENGTH)) > 1e-3
    assert sources["lookup"] > RUNS / 4
    assert (sources["draft"] > RUNS / 4) == (drafted_by == "draft+lookup")


def test_exact_loop_keeps_drafts_as_often_as_the_distributions_overlap() -> None:
    """The acceptance glossary defines, from rows computed outside the loop: a martingale, so its z-score is normal."""
    pair, sampling = PAIRS["bad"], Sampling(1.0, top_p=0.9)
    surplus = variance = 0.0
    for seed in range(30):
        context = pair.prompt
        for one in rounds(pair, ACCEPTORS["rejection"], replace(sampling, seed=seed), 4):
            judged = [token for token in one.drafted if token.state != "discarded"]
            for i, token in enumerate(judged):
                here = context + tuple(draft.id for draft in one.drafted[:i])
                overlap = float(np.minimum(pair.target_probs(here, sampling), pair.draft_probs(here, sampling)).sum())
                surplus += (token.state == "accepted") - overlap
                variance += overlap * (1 - overlap)
            context += one.token_ids
    assert variance > 50
    assert abs(surplus) < 4 * variance**0.5


# --- identity ---


def text(pair: Pair, name: str, sampling: Sampling, k: int, **options: Any) -> tuple[tuple[int, ...], str | None]:
    arm = list(rounds(pair, ACCEPTORS[name], sampling, k, **options))
    return tuple(token for one in arm for token in one.token_ids), arm[-1].finish_reason


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_text_of_both_arms_at_temperature_0(pair: str, name: str) -> None:
    alone = text(PAIRS[pair], name, Sampling(0.0), 1, alone=True)
    assert len(alone[0]) == 32
    for k in (2, 3, 5, 16):
        assert text(PAIRS[pair], name, Sampling(0.0), k) == alone


@pytest.mark.parametrize("drafted_by", ["lookup", "draft+lookup"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_exact_text_with_tokens_looked_up(name: str, drafted_by: str) -> None:
    settings = [Sampling(0.0), *([Sampling(1.0, seed=3), Sampling(0.7, seed=4)] if ACCEPTORS[name].same_text else [])]
    for sampling, k in itertools.product(settings, (2, 5, 16)):
        alone = text(REPEATING, name, sampling, 1, max_tokens=60, alone=True)
        assert text(REPEATING, name, sampling, k, max_tokens=60, drafted_by=drafted_by) == alone


@pytest.mark.parametrize("name", [name for name in LOSSLESS if ACCEPTORS[name].same_text])
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_text_of_both_arms_at_any_temperature(pair: str, name: str) -> None:
    texts = set()
    for seed, setting in enumerate([*SETTINGS.values(), Sampling(1e-3), Sampling(1.0, top_p=1e-6)]):
        sampling = replace(setting, seed=seed)
        alone = text(PAIRS[pair], name, sampling, 1, max_tokens=20, alone=True)
        texts.add(alone)
        for k in (3, 16):
            assert text(PAIRS[pair], name, sampling, k, max_tokens=20) == alone
    assert len(texts) > 4


@pytest.mark.parametrize("name", [name for name in LOSSLESS if ACCEPTORS[name].same_text])
def test_exact_text_whatever_the_draft(name: str) -> None:
    sampling = Sampling(1.0, seed=4)
    assert (
        len({text(PAIRS[pair], name, sampling, 5) for pair in ("same", "good", "bad", "adversarial", "trimmed")}) == 1
    )


@pytest.mark.parametrize("stop_ids", [{0}, {3}, {0, 2}])
@pytest.mark.parametrize("name", ["coupled", "exact"])
def test_exact_text_ends_alike_wherever_the_stop_token_falls(name: str, stop_ids: set[int]) -> None:
    """A stop token first, within and last among a round's tokens, token 0 included: both arms end with it."""
    places = set()
    pair = Pair.of("good", size=8)
    for seed in range(25):
        sampling, stops = Sampling(1.0, seed=seed), frozenset(stop_ids)
        alone = text(pair, name, sampling, 1, stop_ids=stops, alone=True)
        assert text(pair, name, sampling, 5, stop_ids=stops) == alone
        last = list(rounds(pair, ACCEPTORS[name], sampling, 5, stop_ids=stops))[-1]
        if last.finish_reason == "stop":
            assert alone[0][-1] in stops
            assert not stops & set(alone[0][:-1])
            places.add((min(len(last.token_ids), 2), last.final is None))
    assert {(1, False), (2, True)} <= places  # first, as the target's own; later, as an accepted draft


@pytest.mark.parametrize("name", ["coupled", "exact"])
@pytest.mark.parametrize("limit", [{"max_tokens": n} for n in range(1, 9)] + [{"n_positions": n} for n in range(3, 11)])
def test_exact_text_ends_alike_where_a_limit_cuts_a_window(limit: dict[str, int], name: str) -> None:
    for k, pair in itertools.product((2, 5, 16), ("same", "good")):
        alone = text(PAIRS[pair], name, Sampling(1.0, seed=2), 1, **limit, alone=True)
        assert text(PAIRS[pair], name, Sampling(1.0, seed=2), k, **limit) == alone
        assert alone[1] == ("length" if "max_tokens" in limit else "context")
        assert len(alone[0]) == limit.get("max_tokens", limit.get("n_positions", 0) - 2)


@pytest.mark.parametrize("name", list(ACCEPTORS))
def test_exact_replay_of_a_seed(name: str) -> None:
    """The same seed, the same rounds; another seed, others."""
    pair = PAIRS["good"]
    once, again, other = (
        [(one.token_ids, one.drafted) for one in rounds(pair, ACCEPTORS[name], Sampling(1.0, seed=seed), 4)]
        for seed in (5, 5, 6)
    )
    assert once == again
    assert once != other
