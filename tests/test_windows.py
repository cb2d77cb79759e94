"""The window chosen online, on toys whose costs are known: never far from the best fixed one, nor from not drafting."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest

from app.engine.acceptance import ACCEPTORS
from app.engine.noise import Noise
from app.engine.session import Session
from app.engine.windows import PROBED, Acceptance, Adaptive, Costs, Cycle, Fixed, Windows, probed
from app.errors import RequestError
from app.record import trace
from app.record.limits import AUTO
from app.record.metrics import Metrics
from app.record.trace import Request, Round, Sampling
from tests.support.pages import toy_session
from tests.support.simulated import SimulatedSession

ALL = range(2, 17)


def line(verify: float, draft: float) -> Costs:
    """Costs where each row more takes `verify` and each draft `draft`, in passes of one row."""
    return Costs(tuple((k, round(1 + (verify + draft) * (k - 1), 2)) for k in PROBED))


Text = list[tuple[bool, float]]
"""Of every token: whether a draft gets it right, and how likely that was."""


def spent(windows: Windows, text: Text, costs: Costs, sure: Callable[[float], float] = lambda chance: chance) -> float:
    """Target passes' worth of time to say a text. sure: the draft's confidence in a token it gets right with a
    chance."""
    return sum(costs.of(width) for width in widths(windows, text, sure))


def widths(windows: Windows, text: Text, sure: Callable[[float], float] = lambda chance: chance) -> Iterator[int]:
    """Of every round that says the text: the rows it scores."""
    said = 0
    while said < len(text):
        drafted, wanted = 0, min(windows.next(), len(text) - said) - 1
        while drafted < wanted:
            drafted += 1
            if not windows.draft_on(partial(sure, text[said + drafted - 1][1])):
                break
        right = next((i for i in range(drafted) if not text[said + i][0]), drafted)
        windows.judged(right, refused=right < drafted)
        yield drafted + 1
        said += right + 1


@cache
def text(seed: int, length: int, easy: float, hard: float, change: float) -> Text:
    """In stretches that are easy or hard for the draft; `change`: the chance that a stretch ends at a token."""
    found, in_easy = [], True
    for position in range(length):
        in_easy ^= Noise(seed).uniform(2 * position, 1) < change  # type: ignore[arg-type]
        chance = easy if in_easy else hard
        found.append((Noise(seed).uniform(2 * position + 1, 1) < chance, chance))  # type: ignore[arg-type]
    return found


def texts(chances: tuple[float, float, float]) -> list[Text]:
    return [text(seed, 120, *chances) for seed in range(160)]


@cache
def fixed_widths(k: int, chances: tuple[float, float, float]) -> Counter[int]:
    """How often each width was run with one window throughout, whatever it costs."""
    return Counter(width for each in texts(chances) for width in widths(Fixed(k), each))


def best_fixed(costs: Costs, chances: tuple[float, float, float]) -> float:
    """Time with the best fixed window, 1 included, for `texts(chances)`."""
    return min(sum(count * costs.of(width) for width, count in fixed_widths(k, chances).items()) for k in (1, *ALL))


@pytest.mark.slow
@pytest.mark.parametrize("costs", [line(0.02, 0.06), line(0.02, 0.1), line(0.05, 0.15), line(0.2, 0.1)])
@pytest.mark.parametrize("chances", [(0.3, 0.3, 0), (0.5, 0.5, 0), (0.7, 0.7, 0), (0.9, 0.9, 0), (0.95, 0.3, 0.02)])
@pytest.mark.parametrize("sure", [lambda chance: chance, lambda chance: 0.7], ids=["knows", "never knows"])
def test_never_5_percent_slower_than_the_best_fixed_window(
    costs: Costs, chances: tuple[float, float, float], sure: Callable[[float], float]
) -> None:
    total = sum(map(len, texts(chances)))
    fixed = best_fixed(costs, chances)
    auto = sum(spent(Adaptive(costs, ALL), each, costs, sure) for each in texts(chances))
    assert auto <= 1.05 * fixed, (auto / total, fixed / total)


@pytest.mark.slow
def test_faster_than_any_fixed_window_where_the_draft_knows_what_it_knows() -> None:
    costs, chances = line(0.02, 0.1), (0.95, 0.2, 0.4)
    auto = sum(spent(Adaptive(costs, ALL), each, costs) for each in texts(chances))
    assert auto < 0.95 * best_fixed(costs, chances)


@pytest.mark.slow
@pytest.mark.parametrize("costs", [line(0.02, 0.06), line(0.02, 0.1), line(0.05, 0.15), line(0.2, 0.1)])
@pytest.mark.parametrize("chance", [0.0, 0.03, 0.06])
@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.9])
def test_never_3_percent_slower_than_the_target_alone_where_drafting_does_not_pay(
    costs: Costs, chance: float, confidence: float
) -> None:
    said = texts((chance, chance, 0))
    auto = sum(spent(Adaptive(costs, ALL), each, costs, lambda chance: confidence) for each in said)
    assert auto <= 1.03 * sum(map(len, said))


def test_it_stops_drafting_probes_ever_more_rarely_and_begins_again_where_the_text_turns_easy() -> None:
    windows = Adaptive(line(0.02, 0.1), ALL)
    chosen = []
    for _ in range(400):
        chosen.append(windows.next())
        windows.judged(0, refused=chosen[-1] > 1)
    drafted = [place for place, k in enumerate(chosen) if k > 1]
    gaps = [b - a for a, b in itertools.pairwise(drafted)]
    assert set(chosen[100:]) == {1, 2}
    assert gaps == sorted(gaps)
    assert gaps[-1] == Adaptive.PROBES[-1] + 1
    for _ in range(400):
        k = windows.next()
        windows.judged(k - 1, refused=False)
    assert windows.next() > 8


def test_where_drafting_did_not_pay_on_another_text_is_where_this_one_begins() -> None:
    def seen(kept: int) -> Acceptance:
        cycle = Cycle((2, 4))
        for _ in range(40):
            drafts = cycle.next() - 1
            for _ in range(drafts):
                assert cycle.draft_on(lambda: 0.9)
            cycle.judged(min(kept, drafts), refused=kept < drafts)
        return cycle.seen

    costs = line(0.02, 0.1)
    hopeless = Adaptive(costs, ALL, seen(0))
    chosen = []
    for _ in range(100):
        chosen.append(hopeless.next())
        hopeless.judged(0, refused=chosen[-1] > 1)
    _, first, most = Adaptive.PROBES
    assert [place for place, k in enumerate(chosen) if k > 1] == [first, first + 1 + most]
    good = seen(3)
    assert good.first > 0.9
    assert Adaptive(costs, ALL, good).next() == Adaptive(costs, ALL).next()
    again = Adaptive(costs, ALL, bad := seen(0))
    for _ in range(200):
        again.judged(k - 1 if (k := again.next()) > 1 else 0, refused=False)
    assert again.next() > 8, "what this text shows weighs more"
    assert bad.first < 0.1, "one text's rounds do not count in another's"


def test_only_known_windows_are_chosen() -> None:
    windows = Adaptive(line(0.02, 0.06), (3, 5))
    seen = set()
    for turn in range(900):
        k = windows.next()
        seen.add(k)
        windows.judged(k - 1 if turn % 300 < 150 else 0, refused=k > 1 and turn % 300 >= 150)
    assert seen == {1, 3, 5}


def test_costs_are_those_of_the_fastest_whole_rounds_and_lie_on_lines_between() -> None:
    def round_(k: int, seconds: float, drafted: int | None = None) -> Round:
        tokens = (None,) * (k - 1 if drafted is None else drafted)
        return Round(1, "speculative", tokens, None, 0.0, seconds, 0.0, k=k)  # type: ignore[arg-type]

    rounds = [round_(1, 0.010), round_(1, 0.011), round_(1, 0.5), round_(3, 0.5)]  # the last one reads for the others
    rounds += [round_(3, 0.0143), round_(3, 0.0143), round_(3, 9)]
    rounds += [round_(5, 0.0110), round_(5, 0.1, drafted=2)]
    costs = Costs.measured([Round(0, "speculative", (), None, 0, 9, 0, k=1), *rounds])
    assert costs.by_window == ((1, 1.0), (3, 1.43), (5, 1.43)), "wider is never cheaper; cut windows are left out"
    assert costs.of(2) == pytest.approx(1.215)
    assert Costs(((1, 1.0), (2, 1.2))).of(6) == pytest.approx(2.0)
    assert Costs.measured([]).of(2) > 1


def test_what_is_probed_is_what_may_be_chosen() -> None:
    assert probed(range(2, 17)) == [1, 1, 1, 2, 2, 3, 4, 6, 8, 12, 16]
    assert probed((5,)) == [1, 1, 1, 5, 5]


def test_a_cycle_takes_every_window_in_turn() -> None:
    windows = Cycle((1, 2, 4))
    assert [windows.next() for _ in range(5)] == [1, 2, 4, 1, 2]


@pytest.mark.slow
def test_on_the_loop_itself_with_simulated_costs() -> None:
    """The real loop and toys, the clock that of the costs: against every fixed window, and against the target alone."""
    costs = line(0.05, 0.1)

    def tpot(arm: trace.Arm, k: int | Windows) -> float:
        rounds = list(session.arm(arm, Request(prompt="abc", max_tokens=400, k=4), k))[1:]
        return sum(round_.seconds for round_ in rounds) / sum(len(round_.token_ids) for round_ in rounds)

    for agreement in ("same", "good", "bad", "adversarial"):
        session = SimulatedSession(lambda rows: 0.0095 + 0.0005 * rows, 0.001, agreement=agreement, vocab_size=16)
        alone, auto = tpot("target", 1), tpot("speculative", Adaptive(costs, ALL))
        best = min(tpot("speculative", k) for k in PROBED[1:])
        assert auto <= 1.05 * min(best, alone) or auto <= 1.03 * alone, agreement


# --- in a session ---


def run(session: Session, **options: Any) -> list[trace.Event]:
    return list(session.run(Request(prompt="hello", max_tokens=60, k=AUTO, **options)))


@pytest.mark.slow
@pytest.mark.parametrize("acceptor", sorted(ACCEPTORS))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_auto_gives_the_same_text_for_a_seed_each_time_and_records_every_window(
    acceptor: str, temperature: float
) -> None:
    session = toy_session(agreement="good", seed=1)
    options = {"sampling": Sampling(temperature, seed=4), "acceptor": acceptor}
    first, again = (Metrics(run(session, **options)) for _ in range(2))
    assert first.reason in ("stop", "length"), first.message
    assert first.arms["speculative"].token_ids == again.arms["speculative"].token_ids
    if (temperature == 0 and ACCEPTORS[acceptor].lossless) or ACCEPTORS[acceptor].same_text:
        assert first.first_divergence is None


def test_a_draft_that_never_hits_is_asked_seldom_from_the_first_round_on() -> None:
    session = toy_session(agreement="adversarial", seed=1)
    rounds = trace.rounds(run(session), "speculative")[1:]
    assert len(rounds) > Adaptive.PROBES[1]
    assert not any(round_.drafted for round_ in rounds[: Adaptive.PROBES[1]])


def test_the_trace_holds_the_window_of_every_round_and_reads_back() -> None:
    session = toy_session(agreement="good", seed=1)
    events = run(session)
    rounds = trace.rounds(events, "speculative")
    assert all(round_.k is not None and len(round_.drafted) <= round_.k - 1 for round_ in rounds)
    assert all(round_.k == 1 for round_ in trace.rounds(events, "target"))
    assert trace.read(list(trace.write(events))) == events
    assert session.loaded.target.open_sequences == 0  # type: ignore[attr-defined]


def test_only_compiled_windows_are_run() -> None:
    session = toy_session(agreement="same", windows=(2, 4), max_sequences=1)
    rounds = trace.rounds(run(session), "speculative")
    assert {round_.k for round_ in rounds[1:-1]} <= {1, 2, 4}


def test_lookup_alone_costs_nothing_to_weigh() -> None:
    with pytest.raises(RequestError, match="k = auto weighs what a draft model costs"):
        run(toy_session(), drafter="lookup")
