"""A session on toys: what it refuses, what its events promise, and that it always frees the device."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import replace

import pytest

from app.backends.toy import toy_pair
from app.engine.acceptance import ACCEPTORS
from app.engine.pair import Pair
from app.engine.session import Session
from app.errors import RequestError
from app.record import trace
from app.record.limits import AUTO
from app.record.metrics import Metrics
from app.record.trace import FinalToken, Request, Round, RunFinished, RunStarted, Sampling, TokenTexts

HELLO = Request(prompt="hello", max_tokens=24, k=4, sampling=Sampling(temperature=1.0, seed=3))


def session(**toy: object) -> tuple[Session, Pair]:
    target, draft, tokenizer = toy_pair(**{"vocab_size": 259, "seed": 1, **toy})  # type: ignore[arg-type]
    pair = Pair("toys", "toy", target, draft, tokenizer)
    return Session(pair), pair


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": "x" * 300}, "prompt is 302 tokens long and the context holds 256"),
        ({"prompt": "x" * 300_000}, "longer than 200000 characters"),
        ({"k": 1}, "window k is 1; choose 2 to 16"),
        ({"k": 99}, "window k is 99; choose 2 to 16"),
        ({"k": 0}, "window k is 0; choose 2 to 16, or auto"),
        ({"k": "4"}, "window k is 4; choose"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"acceptor": "guess"}, "guess"),
        ({"drafter": "oracle"}, "no drafter 'oracle'"),
        ({"arms": "three"}, "no arm 'three'"),
        ({"sampling": Sampling(temperature=-1.0)}, "temperature"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p"),
        ({"sampling": Sampling(top_k=-1)}, "top_k"),
        ({"sampling": Sampling(seed=-1)}, "seed"),
    ],
)
def test_a_bad_request_is_refused_in_a_sentence_before_anything_runs(change: dict[str, object], fault: str) -> None:
    ours, _ = session()
    with pytest.raises(RequestError, match=fault) as caught:
        ours.run(replace(HELLO, **change))  # type: ignore[arg-type]
    assert str(caught.value).endswith(".")
    assert list(ours.run(HELLO))  # and nothing is lost


def test_the_prompts_tokens_are_counted_as_they_are_fed_but_not_during_a_run() -> None:
    counted, _ = session()
    events = counted.run(HELLO)
    first = next(events)
    assert isinstance(first, RunStarted)
    assert counted.count(HELLO) is None
    events.close()
    assert counted.count(HELLO) == first.prompt_tokens
    raw = replace(HELLO, system="Be brief.", chat_template=False)
    assert counted.count(raw) == len(counted.prompt_ids(raw)) != first.prompt_tokens
    with pytest.raises(RequestError, match="302 tokens long"):
        counted.count(replace(HELLO, prompt="x" * 300))


def test_the_events_are_a_trace_that_reads_back_unchanged() -> None:
    ours, _ = session()
    events = list(ours.run(HELLO))
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert trace.read(trace.write(events)) == events


def test_texts_come_before_the_rounds_that_need_them_and_once() -> None:
    ours, _ = session()
    known: set[int] = set()
    for event in ours.run(HELLO):
        if isinstance(event, TokenTexts):
            assert not known & set(event.pieces)
            known |= set(event.pieces)
        if isinstance(event, Round):
            assert trace.mentioned_ids(event) <= known


def test_both_arms_print_the_same_text_at_temperature_0() -> None:
    ours, _ = session()
    metrics = Metrics(ours.run(replace(HELLO, sampling=Sampling())))
    assert metrics.first_divergence is None
    assert metrics.arms["target"].token_ids == metrics.arms["speculative"].token_ids


def test_the_same_seed_gives_the_same_tokens() -> None:
    ours, _ = session()
    first, second = (Metrics(ours.run(HELLO)).summary()["arms"]["speculative"]["token_ids"] for _ in range(2))
    other = Metrics(ours.run(replace(HELLO, sampling=Sampling(temperature=1.0, seed=4)))).arms["speculative"].token_ids
    assert first == second != other


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_closing_a_run_frees_the_sequences_and_the_lock(steps: int) -> None:
    ours, pair = session()
    run = ours.run(HELLO)
    for _ in range(steps):
        next(run)
    run.close()
    assert pair.target.open_sequences == 0  # type: ignore[attr-defined]
    assert pair.draft.open_sequences == 0  # type: ignore[union-attr]
    assert len(list(ours.run(HELLO))) > 2


def test_a_run_that_was_never_started_holds_nothing() -> None:
    ours, _ = session()
    waiting = ours.run(HELLO)
    assert list(ours.run(HELLO))
    waiting.close()


def test_runs_take_turns() -> None:
    ours, pair = session()
    first = ours.run(HELLO)
    next(first)
    second: list[object] = []
    thread = threading.Thread(target=lambda: second.extend(ours.run(HELLO)))
    thread.start()
    thread.join(0.2)
    assert not second
    first.close()
    thread.join(20)
    assert isinstance(second[-1], RunFinished)
    assert pair.target.open_sequences == 0  # type: ignore[attr-defined]


def test_a_model_that_breaks_ends_the_run_with_a_sentence_and_keeps_its_trace() -> None:
    ours, pair = session(broken_at=12)
    events = list(ours.run(HELLO))
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert last.reason == "error"
    assert "toy target gave logits that are not finite at position 12" in last.message
    assert any(isinstance(event, Round) for event in events)
    assert pair.target.open_sequences == 0  # type: ignore[attr-defined]


def test_an_unforeseen_fault_becomes_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = session()

    def fault(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr("app.backends.toy.ToySequence.rollback", fault)
    last = list(ours.run(HELLO))[-1]
    assert isinstance(last, RunFinished)
    assert last.reason == "error"
    assert "device lost" in last.message


def test_only_compiled_windows_are_offered() -> None:
    ours, _ = session(windows=(2, 4, 8))
    assert ours.windows == (2, 4, 8)
    with pytest.raises(RequestError, match="k = 5 was not compiled; choose one of 2, 4, 8"):
        ours.run(replace(HELLO, k=5))


@pytest.mark.slow
def test_every_drafter_is_offered_and_its_rounds_say_whose_tokens_they_judge() -> None:
    ours, _ = session()
    assert ours.drafters == ("draft", "lookup", "draft+lookup")
    for drafter, sources in (("draft", {"draft"}), ("lookup", {"lookup"}), ("draft+lookup", {"draft", "lookup"})):
        request = replace(HELLO, prompt="sing la la la la la", max_tokens=60, drafter=drafter)
        seeds = [replace(request, sampling=Sampling(temperature=1.0, seed=seed)) for seed in range(4)]
        events = [event for seeded in seeds for event in ours.run(seeded)]
        assert {event.source for event in events if isinstance(event, Round) and event.drafted} == sources
        assert {event.source for event in events if isinstance(event, Round) and not event.drafted} == {None}
        assert isinstance(events[0], RunStarted)
        assert events[0].request.drafter == drafter


def test_a_pair_without_a_draft_speculates_by_lookup() -> None:
    target, _, tokenizer = toy_pair(vocab_size=259, seed=1)
    ours = Session(Pair("alone", "toy", target, None, tokenizer))
    assert ours.drafters == ("lookup",)
    with pytest.raises(RequestError, match="no draft model; choose the drafter lookup"):
        ours.run(HELLO)
    assert list(ours.run(replace(HELLO, arms="target")))
    metrics = Metrics(ours.run(replace(HELLO, prompt="la la la la", drafter="lookup", sampling=Sampling())))
    assert metrics.first_divergence is None
    assert set(metrics.arms) == {"target", "speculative"}


def test_lookup_is_not_held_to_the_drafts_shorter_context() -> None:
    target, _, tokenizer = toy_pair(vocab_size=259, seed=1, n_positions=64)
    _, draft, _ = toy_pair(vocab_size=259, seed=1, n_positions=32)
    ours = Session(Pair("uneven", "toy", target, draft, tokenizer))
    lengths = {
        drafter: len(Metrics(ours.run(replace(HELLO, max_tokens=80, drafter=drafter))).arms["speculative"].token_ids)
        for drafter in ours.drafters
    }
    assert lengths == {"draft": 32 - 7, "lookup": 64 - 7, "draft+lookup": 32 - 7}


def test_a_device_with_one_sequence_runs_the_arms_in_turn() -> None:
    ours, _ = session(max_sequences=1)
    arms = [event.arm for event in ours.run(HELLO) if isinstance(event, Round)]
    assert arms == sorted(arms, reverse=True)
    assert set(arms) == {"target", "speculative"}


@pytest.mark.parametrize("name", ACCEPTORS)
def test_a_trace_says_what_its_acceptor_promises(name: str) -> None:
    """`same_text` decides what the page says of two arms that part: it is recorded, not left at its default."""
    session_, _ = session()
    started = next(session_.run(replace(HELLO, acceptor=name)))
    assert isinstance(started, RunStarted)
    assert (started.lossless, started.same_text) == (ACCEPTORS[name].lossless, ACCEPTORS[name].same_text)
    assert started.same_text == (name in ("exact", "coupled"))


def test_a_window_left_to_the_loop_is_recorded_by_its_name() -> None:
    session_, _ = session()
    events = list(session_.run(replace(HELLO, k=AUTO)))
    assert trace.read(trace.write(events)) == events
    assert '"k":"auto"' in trace.dumps(events[0])


def test_a_run_by_the_engines_own_loop_promises_nothing() -> None:
    """It can be taken for an exact run nowhere: not in the trace, not in its figures, not by the acceptor's name."""
    target, draft, tokenizer = toy_pair(vocab_size=259, seed=1)

    def loop(prompt: Sequence[int], **_: object) -> Generator[Round, None, None]:
        final = FinalToken(prompt[0], "target", 0.5, ())
        yield Round(0, "speculative", (), final, 0.0, 0.1, 0.0, finish_reason="length")

    ours = Session(Pair("toys", "toy", target, draft, tokenizer, reference_loop=loop))
    events = list(ours.run(HELLO, upstream=True))
    started = events[0]
    assert isinstance(started, RunStarted)
    assert (started.engine, started.lossless, started.same_text) == ("upstream", False, False)
    assert started.request.acceptor == "upstream"
    assert Metrics(events).total_variation is None
    assert trace.read(trace.write(events)) == events
    own = next(ours.run(HELLO))
    assert isinstance(own, RunStarted)
    assert (own.engine, own.lossless, own.request.acceptor) == ("own", True, "rejection")
