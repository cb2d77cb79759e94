"""The round loop on tables: accounting, ends, provenance, clocks. Its losslessness is proven in test_exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.toy import ToySequence, toy_pair
from app.engine.acceptance import find
from app.engine.decode import Limits, decode
from app.engine.drafting import ModelDrafter
from app.engine.windows import Fixed
from app.errors import ModelError
from app.record.trace import Round, Sampling

PROMPT = [3, 1, 2]


class Clock:
    """Seconds that pass only when a model works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def slow(self, sequence: ToySequence, seconds: float) -> ToySequence:
        """`sequence`, each pass of which takes `seconds` on this clock."""
        forward: Callable[..., object] = sequence.forward

        def timed(*args: object) -> object:
            self.now += seconds
            return forward(*args)

        sequence.forward = timed  # type: ignore[method-assign,assignment]
        return sequence


def rounds_of(
    *,
    speculative: bool = True,
    k: int = 4,
    max_tokens: int = 24,
    n_positions: int = 256,
    temperature: float = 1.0,
    clock: Clock | None = None,
    acceptor: str = "rejection",
    **toy: object,
) -> list[Round]:
    target, draft, tokenizer = toy_pair(n_positions=n_positions, **toy)  # type: ignore[arg-type]
    sampling = Sampling(temperature=temperature, seed=5)
    clock = clock or Clock()
    drafter = None
    draft_sequence = target_sequence = None
    target_sequence = clock.slow(target.new_sequence(), 1.0)
    if speculative:
        draft_sequence = clock.slow(draft.new_sequence(), 0.1)
        drafter = ModelDrafter(
            draft_sequence,
            name="draft",
            vocab_size=draft.vocab_size,
            sampling=sampling,
            stop_ids=tokenizer.stop_ids,
            clock=clock,
        )
    return list(
        decode(
            target_sequence,
            drafter,
            PROMPT,
            windows=Fixed(k),
            sampling=sampling,
            acceptor=find(acceptor),
            limits=Limits(max_tokens, n_positions, tokenizer.stop_ids),
            target_name="target",
            clock=clock,
        )
    )


def tokens_of(rounds: list[Round]) -> list[int]:
    return [token for round_ in rounds for token in round_.token_ids]


def test_the_first_round_is_the_prefill_with_one_target_token() -> None:
    first = rounds_of()[0]
    assert first.index == 0
    assert first.drafted == ()
    assert first.final is not None
    assert first.final.provenance == "target"


def test_the_target_alone_emits_one_target_token_a_round() -> None:
    rounds = rounds_of(speculative=False, max_tokens=9)
    assert [round_.index for round_ in rounds] == list(range(9))
    assert {round_.final.provenance for round_ in rounds if round_.final} == {"target"}
    assert {round_.arm for round_ in rounds} == {"target"}


@given(
    k=st.integers(2, 16),
    max_tokens=st.integers(1, 40),
    n_positions=st.integers(len(PROMPT) + 1, 48),
    agreement=st.sampled_from(["same", "good", "bad", "adversarial"]),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
)
def test_every_round_is_a_prefix_of_its_drafts_and_one_token(
    k: int, max_tokens: int, n_positions: int, agreement: str, temperature: float
) -> None:
    rounds = rounds_of(
        k=k, max_tokens=max_tokens, n_positions=n_positions, agreement=agreement, temperature=temperature
    )
    for round_ in rounds:
        states = [token.state for token in round_.drafted]
        accepted = len(round_.accepted)
        assert states[:accepted] == ["accepted"] * accepted
        assert states[accepted : accepted + 1] in ([], ["rejected"])
        assert set(states[accepted + 1 :]) <= {"discarded"}
        assert len(round_.drafted) <= k - 1
        assert round_.final is not None
        kind = "target" if not states else "bonus" if accepted == len(states) else "corrected"
        assert round_.final.provenance == kind
    assert len(tokens_of(rounds)) == min(max_tokens, n_positions - len(PROMPT))
    assert [round_.finish_reason for round_ in rounds[:-1]] == [None] * (len(rounds) - 1)
    full = n_positions - len(PROMPT) < max_tokens
    assert rounds[-1].finish_reason == ("context" if full else "length")


def test_a_perfect_draft_is_always_accepted_and_earns_the_bonus() -> None:
    rounds = rounds_of(agreement="same", k=4, max_tokens=21)
    for round_ in rounds[1:-1]:
        assert len(round_.token_ids) == 4
        assert round_.final is not None
        assert round_.final.provenance == "bonus"


def test_the_window_shrinks_where_fewer_tokens_are_wanted() -> None:
    rounds = rounds_of(agreement="same", k=8, max_tokens=4)
    assert [len(round_.drafted) for round_ in rounds] == [0, 2]
    assert len(tokens_of(rounds)) == 4


@pytest.mark.parametrize("stop", range(8))
@pytest.mark.parametrize("agreement", ["same", "good"])
def test_nothing_follows_a_stop_token_in_either_arm(stop: int, agreement: str) -> None:
    """Wherever in the window it falls: accepted, corrected, bonus, or the very first token; id 0 too."""
    options = {"stop_ids": [stop], "agreement": agreement, "temperature": 0.0, "max_tokens": 60}
    alone = tokens_of(rounds_of(speculative=False, **options))  # type: ignore[arg-type]
    for k in (2, 3, 5, 16):
        rounds = rounds_of(k=k, **options)  # type: ignore[arg-type]
        tokens = tokens_of(rounds)
        assert tokens == alone
        assert stop not in tokens[:-1]
        assert (rounds[-1].finish_reason == "stop") == (tokens[-1] == stop)


def test_a_stop_token_accepted_in_the_middle_discards_the_rest_of_the_window() -> None:
    """The draft goes no further than a stop token itself, so only a stop the draft does not know can be in the
    middle."""
    target, draft, _ = toy_pair(agreement="same")
    sampling = Sampling()
    context = tokens_of(rounds_of(speculative=False, temperature=0.0, max_tokens=12))
    stop = next(token for place, token in enumerate(context) if place >= 2 and token not in context[:place])
    drafter = ModelDrafter(draft.new_sequence(), name="draft", vocab_size=8, sampling=sampling, stop_ids=frozenset())
    limits = Limits(30, 256, frozenset({stop}))
    rounds = list(
        decode(
            target.new_sequence(), drafter, PROMPT, windows=Fixed(16), sampling=sampling, acceptor=find("exact"),
            limits=limits, target_name="target",
        )
    )  # fmt: skip
    last = rounds[-1]
    assert last.finish_reason == "stop"
    assert last.final is None
    assert last.accepted[-1].id == stop
    assert {token.state for token in last.drafted[len(last.accepted) :]} == {"discarded"}


def test_seconds_are_those_of_the_arm_and_its_parts() -> None:
    clock = Clock()
    rounds = rounds_of(k=4, agreement="same", max_tokens=13, clock=clock)
    assert rounds[0].verify_seconds == pytest.approx(1.0)
    assert rounds[0].draft_seconds == pytest.approx(0.1)  # TTFT holds the prefill of both models
    for round_ in rounds[1:]:
        assert round_.verify_seconds == pytest.approx(1.0)
        assert round_.draft_seconds == pytest.approx(0.1 * len(round_.drafted))
        assert round_.host_seconds == pytest.approx(0.0, abs=1e-9)
    assert sum(round_.seconds for round_ in rounds) == pytest.approx(clock.now)


def test_a_token_carries_its_probabilities_coin_and_alternatives() -> None:
    for round_ in rounds_of(agreement="good"):
        for token in round_.drafted:
            assert 0 < token.q <= 1
            assert 0 <= token.p <= 1
            assert len(token.draft_alternatives) == len(token.target_alternatives) == 5
            ranked = [a.model_prob for a in token.target_alternatives]
            assert ranked == sorted(ranked, reverse=True)
            if token.state != "discarded":
                assert token.u is not None
                assert token.threshold is not None
                assert token.threshold == pytest.approx(min(1.0, token.p / token.q))
                assert (token.u < token.threshold) == (token.state == "accepted")
        if round_.final is not None and round_.final.provenance == "corrected":
            assert round_.final.residual
            assert sum(a.warped_prob for a in round_.final.residual) <= 1 + 1e-6


def test_logits_that_are_not_finite_name_the_model_and_the_position() -> None:
    with pytest.raises(ModelError, match="target gave logits that are not finite at position 9"):
        rounds_of(speculative=False, broken_at=9)
    with pytest.raises(ModelError, match="target gave logits that are not finite at position 9"):
        rounds_of(broken_at=9, agreement="same")
