"""The engine in a process of its own: the same events, and whatever ends or hangs it ends one run only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import parser
from app.cli.flags import engine as engine_of
from app.errors import PairError, PlaygroundError, RequestError
from app.hosting import child, description
from app.hosting.channel import Channel
from app.hosting.process import Home, ProcessEngine
from app.hosting.recipe import Recipe, pair_recipe, read, written
from app.pairs.options import PairOptions
from app.record.trace import Event, Request, Round, RunFinished, RunStarted, TokenTexts
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights
from tests.support.toy_engine import recipe

pytestmark = pytest.mark.slow

REQUEST = Request("Say hello.", max_tokens=24, k=3)


@contextmanager
def engine(made: Recipe | None = None, **options: Any) -> Iterator[ProcessEngine]:
    with closing(ProcessEngine(made or recipe(), **options)) as started:
        yield started


def untimed(events: list[Event]) -> list[Any]:
    """The events without what differs from one run to another."""
    fields = ("draft_seconds", "verify_seconds", "host_seconds", "created")
    return [{name: getattr(each, name) for name in each.__slots__ if name not in fields} for each in events]


def by_arm(events: list[Event]) -> dict[str, list[Any]]:
    """The arms race by their clocks: only within an arm is the order fixed."""
    rounds = [event for event in untimed(events) if "arm" in event]
    return {arm: [each for each in rounds if each["arm"] == arm] for arm in ("target", "speculative")}


def test_a_run_is_the_run_of_a_session_in_this_process() -> None:
    with engine() as hosted:
        here = recipe().make()
        assert description.of(here) == hosted.described
        ours, theirs = list(here.run(REQUEST)), list(hosted.run(REQUEST))
        assert isinstance(theirs[0], RunStarted)
        assert by_arm(theirs) == by_arm(ours)
        assert untimed(theirs[:1]) == untimed(ours[:1])
        assert theirs[-1] == ours[-1] == RunFinished("length")
        assert any(isinstance(event, TokenTexts) for event in theirs)
        assert hosted.memory() > 0
        assert hosted.restarts == 0


def test_a_prompt_is_counted_between_runs_and_while_one_is_on_it_is_not() -> None:
    with engine() as hosted:
        events = hosted.run(REQUEST)
        first = next(events)
        assert hosted.count(REQUEST) is None
        events.close()
        assert isinstance(first, RunStarted)
        assert hosted.count(REQUEST) == first.prompt_tokens
        with pytest.raises(RequestError, match="shorten it"):
            hosted.count(Request("x" * 100_000))
        assert hosted.restarts == 0


def test_what_cannot_run_is_refused_and_the_engine_stays() -> None:
    with engine() as hosted:
        process = hosted.process_id
        with pytest.raises(RequestError, match="empty"):
            list(hosted.run(Request("")))
        assert isinstance(list(hosted.run(REQUEST))[-1], RunFinished)
        assert hosted.process_id == process


def test_closing_a_run_ends_it_and_the_next_one_runs_in_the_same_process() -> None:
    with engine() as hosted:
        process = hosted.process_id
        for taken in range(6):
            events = hosted.run(REQUEST)
            for _ in range(taken):
                next(events)
            events.close()
        assert list(hosted.run(REQUEST))[-1] == RunFinished("length")
        assert hosted.process_id == process


@pytest.mark.parametrize(
    ("acceptor", "options", "sentence"),
    [
        ("Crashing", {}, "SIGSEGV"),
        ("Leaving", {}, "SystemExit"),
        ("Interrupting", {}, "KeyboardInterrupt"),
        ("Hanging", {"round_seconds": 1.0, "prefill_seconds": 1.0}, "longer than a round may"),
        ("Greedy", {"memory": 2 * 10**9}, "MemoryError"),
        ("Sharing", {"memory": 10**9}, "more than the 1.0 GB"),
    ],
)
def test_an_acceptor_that_ends_or_hangs_its_process_ends_one_run(
    acceptor: str, options: dict[str, Any], sentence: str
) -> None:
    with engine(recipe(acceptor), **options) as hosted:
        name = hosted.acceptors[-1].name
        last = list(hosted.run(Request("Say hello.", max_tokens=24, acceptor=name)))[-1]
        assert isinstance(last, RunFinished)
        assert last.reason == "error"
        assert sentence in last.message
        assert list(hosted.run(REQUEST))[-1] == RunFinished("length")


def test_a_killed_engine_ends_the_run_and_comes_back() -> None:
    with engine() as hosted:
        events = hosted.run(REQUEST)
        for _ in range(4):
            next(events)
        os.kill(hosted.process_id, signal.SIGKILL)
        last = list(events)[-1]
        assert isinstance(last, RunFinished)
        assert "SIGKILL" in last.message
        assert list(hosted.run(REQUEST))[-1] == RunFinished("length")
        os.kill(hosted.process_id, signal.SIGKILL)  # between two runs
        assert list(hosted.run(REQUEST))[-1] == RunFinished("length")
        assert hosted.restarts == 2


def test_a_stopped_run_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.hosting.process.GRACE_SECONDS", 0.5)
    stop = threading.Event()
    with engine(recipe("Hanging"), round_seconds=600.0) as hosted:
        name = hosted.acceptors[-1].name
        run = hosted.run(Request("Say hello.", max_tokens=24, acceptor=name), stopped=stop.is_set)
        events = [next(run) for _ in range(3)]
        stop.set()
        events += list(run)
        assert "longer than a round may" in events[-1].message  # type: ignore[union-attr]
        assert list(hosted.run(REQUEST))[-1] == RunFinished("length")


def test_pairs_are_exchanged_and_a_pair_that_cannot_be_loaded_leaves_the_one_before() -> None:
    with engine(recipe(pairs=4)) as hosted:
        first = hosted.process_id
        assert (hosted.chosen, hosted.pairs) == ("toy 0", ("toy 0", "toy 1", "toy 2", "toy 3"))
        hosted.switch("toy 1")
        assert (hosted.chosen, hosted.pair, hosted.process_id) == ("toy 1", "toy 1", first)
        with pytest.raises(RequestError, match="no pair 'toy 9'"):
            hosted.switch("toy 9")
        with pytest.raises(PairError, match=r"toy 3 could not be loaded.*exit code 3"):
            hosted.switch("toy 3")
        assert next(iter(hosted.run(REQUEST))).pair == "toy 1"  # type: ignore[union-attr]
        hosted.switch("toy 2")
        second = hosted.process_id
        assert second != first
        hosted.switch("toy 0")  # toy 2 must stay in its process
        assert hosted.process_id != second
        assert next(iter(hosted.run(REQUEST))).pair == "toy 0"  # type: ignore[union-attr]


def test_every_engine_is_warm_before_it_is_asked_for_anything(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with engine(recipe(pairs=3, told=str(told))) as hosted:
        list(hosted.run(REQUEST))
        os.kill(hosted.process_id, signal.SIGKILL)
        list(hosted.run(REQUEST))
        for name in ("toy 1", "toy 2", "toy 0"):  # in the same process, and in another
            hosted.switch(name)
        list(hosted.run(REQUEST))
    assert told.read_text(encoding="utf-8").splitlines() == [
        *("toy 0: Hello", "toy 0: Say hello.") * 2,
        *("toy 1: Hello", "toy 2: Hello", "toy 0: Hello"),
        "toy 0: Say hello.",
    ]


def test_a_run_that_is_stopped_while_its_engine_loads_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "told")
    reading = os.open(tmp_path / "told", os.O_RDWR)
    with engine(recipe(told=str(tmp_path / "told"))) as hosted:
        os.close(reading)  # whoever writes waits from here on: the next engine does not come to be ready
        os.kill(hosted.process_id, signal.SIGKILL)
        with pytest.raises(RequestError, match="Stopped before the engine was ready"):
            list(hosted.run(REQUEST, stopped=lambda: True))


def test_a_listed_pair_gets_the_python_and_the_process_it_needs() -> None:
    other = str(Path(sys.prefix) / "bin" / ".." / "bin" / "python")
    homes = {"toy 1": Home(other), "toy 2": Home(sys.executable, alone=True)}
    with engine(recipe(pairs=3), homes=homes) as hosted:

        def python() -> str:
            return Path(f"/proc/{hosted.process_id}/cmdline").read_text(encoding="utf-8").partition("\0")[0]

        processes = [hosted.process_id]
        for name, wanted in (("toy 1", other), ("toy 2", sys.executable), ("toy 0", sys.executable)):
            hosted.switch(name)
            assert (hosted.chosen, python()) == (name, wanted)
            assert next(iter(hosted.run(REQUEST))).pair == name  # type: ignore[union-attr]
            processes.append(hosted.process_id)
        assert len(set(processes)) == 4
        hosted.switch("toy 1")
        os.kill(hosted.process_id, signal.SIGKILL)
        assert list(hosted.run(REQUEST))[-1] == RunFinished("length")
        assert (hosted.chosen, python()) == ("toy 1", other)


def test_a_folder_of_pairs_may_mix_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    model = save_tokenizer(save_directory(tmp_path / "model", TINY, weights(TINY)))
    (tmp_path / "pairs").mkdir()
    for backend in ("openvino", "torch"):
        (tmp_path / "pairs" / f"{backend}.toml").write_text(
            f'backend = "{backend}"\ntarget = "{model}"\ndtype = "f32"\nthreads = 1\n', encoding="utf-8"
        )
    (tmp_path / "pairs" / "unknown.toml").write_text('backend = "unknown"\n', encoding="utf-8")
    flags = ["serve", "--pair", str(tmp_path / "pairs" / "openvino.toml"), "--pairs", str(tmp_path / "pairs")]
    with closing(engine_of(parser().parse_args(flags))) as hosted:
        texts = []
        for backend in ("openvino", "torch", "openvino"):
            hosted.switch(backend)
            assert (hosted.chosen, hosted.backend) == (backend, backend)
            asked = Request("abc", max_tokens=6, k=3, drafter="lookup", chat_template=False)
            events = list(hosted.run(asked))
            assert events[-1] == RunFinished("length")
            texts.append([event.token_ids for event in events if isinstance(event, Round) and event.arm == "target"])
        assert texts[0] == texts[1] == texts[2]
        with pytest.raises(PairError, match="no backend 'unknown'"):
            hosted.switch("unknown")
        assert hosted.backend == "openvino"


def test_what_cannot_be_loaded_says_so_at_the_start() -> None:
    missing = PairOptions(target=Path("nowhere.gguf"))
    with pytest.raises(PairError, match=r"There is no model at nowhere\.gguf"):
        ProcessEngine(pair_recipe(missing))
    with pytest.raises(PairError, match="cannot be started"):
        ProcessEngine(recipe(), python="/nowhere/python")
    with pytest.raises(PlaygroundError, match="ended while it loaded"):
        ProcessEngine(Recipe("app.nowhere:nothing"))


def test_options_survive_the_way_to_another_process() -> None:
    options = PairOptions(backend="torch", target=Path("a b"), windows=(2, 3), n_positions=512)
    assert read(written(options)) == options


def test_no_process_is_left_when_the_page_is_killed() -> None:
    code = (
        "import sys, time\n"
        "from app.hosting.process import ProcessEngine\n"
        "from tests.support.toy_engine import recipe\n"
        "print(ProcessEngine(recipe()).process_id, flush=True)\n"
        "time.sleep(600)\n"
    )
    page = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    with page, page.stdout:
        process = int(page.stdout.readline())
        page.kill()
        page.wait()
    while Path(f"/proc/{process}").exists() and " Z " not in Path(f"/proc/{process}/stat").read_text(encoding="ascii"):
        pass


def test_an_idle_engine_prepares_a_step_at_a_time_and_a_message_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made while a run is under way: the message that asks for it ends the preparing."""
    monkeypatch.setattr(child, "IDLE", 0.01)
    ours, theirs = map(Channel, socket.socketpair())
    made = []

    def steps() -> Iterator[None]:
        for step in range(4):
            made.append(step)
            if step == 1:
                ours.say({"do": "run"})
            yield
        raise MemoryError("no room")

    class Prepared:
        prepare = staticmethod(steps)

    with closing(ours), closing(theirs):
        preparing = child.prepared(Prepared())
        assert child._next(theirs, preparing) == {"do": "run"}
        assert made == [0, 1]
        ours.say({"do": "count"})
        assert child._next(theirs, preparing) == {"do": "count"}
        assert made == [0, 1]
        threading.Timer(0.3, ours.say, [{"do": "switch"}]).start()
        assert child._next(theirs, preparing) == {"do": "switch"}
        assert made == [0, 1, 2, 3]
