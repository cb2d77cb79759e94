"""`distill all` on a tiny target: what the target writes, what the draft reads and learns, and the whole in seconds."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch belongs to app/distill/requirements.txt", allow_module_level=True)

import torch

from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint, WithEmbeddings
from app.backends.checkpoints.config import read_config
from app.backends.openvino.model import OpenVinoModel
from app.distill import ablation, cli, helpers, jobs
from app.distill.ablation import VARIANTS
from app.distill.helpers import Bench
from app.distill.jobs import Sizes
from app.distill.objective import _rows
from app.distill.pack import pack
from app.distill.plan import Plan
from app.distill.student import Shape, Student
from app.distill.target import Target
from app.distill.texts import Dialogues, Texts
from app.distill.train import measure, scored_rows, tokens_per_pass
from app.distill.writer import ASKED, COLD, FORCED, HOT, Writer
from app.distill.writing import fitting
from app.engine.model import StatesCache
from app.errors import RequestError
from tests.support.chat_llama import chat_llama

pytestmark = pytest.mark.slow
ROWS, STEPS, CPU = 8, 64, torch.device("cpu")
SIZES = Sizes(16, 20, 24)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(chat_llama(tmp_path_factory.mktemp("tiny")), tmp_path_factory.mktemp("cache"))


def writer(target: Target) -> Writer:
    made = Writer(
        target.weights, opening=target.opening, closing=target.closing, stop_ids=target.tokenizer.stop_ids, rows=ROWS,
        n_positions=192, steps=STEPS, width=100, capacity=200, seed=0, device=CPU, dtype=torch.float32,
    )  # fmt: skip
    made.add(jobs.held_out(target, [("chat", "Hi there")], SIZES, 100))
    made.add(jobs.begun(target.tokenizer, range(100), 0, (), SIZES, 100))
    return made


@pytest.fixture(scope="module")
def dialogues(target: Target) -> Dialogues:
    own = writer(target)
    texts = Texts(target.opening, own.opening_states, 3 * ROWS * STEPS, ROWS, CPU)
    for _ in range(3):
        texts.add(own.write())
    assert not texts.room(1)
    return texts.dialogues()


def whole(dialogues: Dialogues) -> Any:
    return dialogues.batch(np.arange(len(dialogues)), CPU)


def student(target: Target, layers: list[int], conditioned: bool = False) -> Student:
    embedding = torch.tensor(target.weights.tensor("model.embed_tokens.weight"))
    made = Student(Shape.of(target.weights, len(layers)), embedding, range(100), conditioned)
    made.copy_layers(target.weights.tensor, layers)
    return made


class TestWriting:
    def test_states_are_those_of_the_whole_text(self, target: Target, dialogues: Dialogues) -> None:
        batch = whole(dialogues)
        with torch.no_grad():
            expected = student(target, [0, 1, 2]).hidden(batch.ids)  # every layer: the target itself
        for number, length in enumerate(dialogues.lengths + len(target.opening)):
            np.testing.assert_allclose(batch.states[number, 1 : length + 1], expected[number, :length], atol=4e-3)
        assert not batch.states[:, 0].any()

    def test_turns_follow_the_template(self, target: Target, dialogues: Dialogues) -> None:
        closing, answered = list(target.closing), 0
        output = target.output_layer
        for number in range(len(dialogues)):
            ids, kinds = dialogues.ids(number).tolist(), dialogues.kinds_of(number)
            answer = np.flatnonzero(kinds >= COLD)
            if len(answer):
                answered += 1
                assert ids[answer[0] + 1 - len(closing) : answer[0] + 1] == closing
                assert (np.diff(answer) == 1).all()
                assert len(set(kinds[answer])) == 1
                assert len(answer) <= SIZES.answer
            assert (kinds == ASKED).sum() <= SIZES.passage
            states = dialogues.batch(np.array([number]), CPU).states[0, 1 + len(target.opening) :]
            for place in np.flatnonzero(kinds[:-1] == COLD):  # at T = 0 the likeliest token follows
                assert ids[place + 1] == (states[place].float().numpy() @ output.T).argmax()
        assert answered > 3

    def test_held_out_prompts_are_answered_cold_and_hot(self, target: Target, dialogues: Dialogues) -> None:
        asked = [*target.tokenizer.encode("Hi there"), *target.closing]
        for job, kind in ((0, COLD), (1, HOT)):
            number = int(np.flatnonzero(dialogues.jobs == job)[0])
            assert dialogues.ids(number)[: len(asked)].tolist() == asked
            assert (dialogues.kinds_of(number)[: len(asked) - 1] == FORCED).all()
            assert (dialogues.kinds_of(number)[len(asked) - 1 :] == kind).all()

    def test_a_dialogue_that_holds_a_prompt_is_found(self, target: Target, dialogues: Dialogues) -> None:
        longest = int(dialogues.lengths.argmax())
        text = target.text(dialogues.ids(longest))
        helpers.sit_down(Bench(target.directory, tuple(target.tokenizer.stop_ids), (text,)))
        other = int(dialogues.lengths.argmin())
        assert helpers.clean([dialogues.ids(longest), np.array([65, 66, 67, 68], np.int32)]) == [False, True]
        assert other != longest

    def test_batches_hold_every_dialogue_once(self, dialogues: Dialogues) -> None:
        numbers = np.arange(len(dialogues))

        def firsts(epoch: int) -> list[list[int]]:
            return [row for batch in dialogues.batches(numbers, 300, 1, epoch, CPU) for row in batch.ids.tolist()]

        assert len(firsts(0)) == len(numbers)
        assert firsts(0) == firsts(0) != firsts(1)
        for batch in dialogues.batches(numbers, 300, 1, 0, CPU):
            assert batch.ids.shape[0] == 1 or batch.ids.numel() <= 300
            assert batch.states.shape[1] == batch.ids.shape[1] + 1

    def test_what_was_kept_is_there_again(self, target: Target, tmp_path: Path) -> None:
        own = writer(target)
        first = Texts(target.opening, own.opening_states, 2 * ROWS * STEPS, ROWS, CPU, tmp_path)
        first.add(own.write())
        again = Texts(target.opening, own.opening_states, 2 * ROWS * STEPS, ROWS, CPU, tmp_path)
        assert again.size == first.size
        one, other = whole(first.dialogues()), whole(again.dialogues())
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.states, other.states)


class TestLearning:
    def test_later_drafts_read_what_a_round_reads(self, target: Target, dialogues: Dialogues) -> None:
        """`unrolled` in one pass a draft against one chain of single tokens for every place."""
        draft = student(target, [0, 1], conditioned=True)
        torch.manual_seed(1)
        torch.nn.init.normal_(draft.fusion.weight, std=0.05)
        theirs, own = draft.fusion.weight.chunk(2, 1)
        ids, before = whole(dialogues).ids[:1, :20], whole(dialogues).states[:1, :20].float()

        def chain(place: int, number: int) -> torch.Tensor:
            states: list[torch.Tensor] = [torch.empty(0)] * (place + 1)
            angle = torch.outer(torch.arange(place + 1, dtype=torch.float64), draft.frequencies).repeat(1, 2).float()
            for last in range(place - number, place + 1):
                x = draft.embedding[ids[0, : last + 1]].clone()
                for row in range(last + 1):
                    x[row] += theirs @ before[0, row] if row <= place - number else own @ states[row - 1]
                x = x[None]
                for layer in draft.model.layers:
                    x = layer(x, angle[: last + 1].cos(), angle[: last + 1].sin(), [])
                states[last] = draft.model.norm(x)[0, last]
            return states[place]

        with torch.no_grad():
            for number, states in enumerate(draft.unrolled(ids, before, 3)):
                for place in range(number, 20):
                    torch.testing.assert_close(states[0, place], chain(place, number), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("late", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("cold", [False, True])
    def test_the_gradient_is_the_divergences_own(self, late: float, cold: bool) -> None:
        torch.manual_seed(3)
        z, t = torch.randn(6, 50, dtype=torch.float64, requires_grad=True), 2 * torch.randn(6, 50, dtype=torch.float64)
        shares, colds = torch.full((6, 1), late, dtype=torch.float64), torch.full((6, 1), cold)
        value, gradient, kept = _rows(z, t, shares, colds)
        value.sum().backward()
        torch.testing.assert_close(gradient, z.grad)
        overlap = torch.minimum(z.softmax(1), t.softmax(1)).sum(1)
        right = (z.argmax(1) == t.argmax(1)).double()
        torch.testing.assert_close(kept, right if cold else overlap)
        if late == 1 and not cold:
            torch.testing.assert_close(value, -overlap.log())

    def test_rows_are_those_a_draft_can_be_judged_at(self) -> None:
        kinds = np.array([[FORCED, ASKED, FORCED, HOT, HOT, HOT]], np.uint8)
        assert [scored_rows(kinds, number).tolist() for number in range(3)] == [[1, 3, 4, 5], [4, 5], [5]]

    def test_tokens_a_pass(self) -> None:
        certain, hopeless = np.ones((3, 41)), np.zeros((3, 41))
        assert tokens_per_pass([certain]) == 4.0
        assert tokens_per_pass([hopeless]) == 1.0
        half = np.full((1, 4001), 0.5)
        assert tokens_per_pass([half]) == pytest.approx(1.5, abs=0.01)
        first_only = np.stack([np.ones(4001), np.zeros(4001), np.ones(4001)])
        assert tokens_per_pass([first_only]) == pytest.approx(2.0, abs=0.01)


def test_the_engine_reads_a_conditioned_draft_as_training_does(
    target: Target, dialogues: Dialogues, tmp_path: Path
) -> None:
    draft = student(target, [1], conditioned=True)
    torch.nn.init.normal_(draft.fusion.weight, std=0.05)
    arrays = {name: value.numpy() for name, value in draft.state_dict().items()}
    pack(arrays, np.arange(100, dtype=np.int32), np.zeros(64), target.config, "tiny", tmp_path)
    config, packed = read_config(tmp_path), SafetensorsCheckpoint(tmp_path)
    assert config.conditioned
    rounded = {name: torch.from_numpy(packed.tensor(name)) for name in draft.state_dict()}
    draft.load_state_dict(rounded)
    model = OpenVinoModel(
        config, lambda: WithEmbeddings(packed, target.weights), name="draft", dtype="f32", states=True
    )
    ids, before = whole(dialogues).ids[:1, :12], whole(dialogues).states[:1, :12].float()
    with torch.no_grad():
        first, second = draft.unrolled(ids, before, 2)
        logits = draft.lm_head(second)[0, 11]
    cache = cast(StatesCache, model.new_sequence((1, 4)))
    read = np.zeros((12, 128), np.float32)
    read[:, :64] = before[0]
    cache.forward(ids[0, :7].tolist(), 1, read[:7])
    cache.forward(ids[0, 7:11].tolist(), 1, read[7:11])
    np.testing.assert_allclose(cache.states, first[0, 7:11], atol=2e-4)
    read[11] = 0
    read[11, 64:] = cache.states[-1]
    answer = cache.forward([int(ids[0, 11])], 1, read[11:])
    np.testing.assert_allclose(answer[0], logits, atol=2e-3)


def test_what_is_kept_fits_beside_the_dialogues_under_way(tmp_path: Path) -> None:
    """A card whose memory the dialogues fill keeps fewer of their states; one that could keep none says so."""
    plan = Plan(1.0, tmp_path, rows=10, steps=20, tokens=1000, sizes=Sizes())
    assert [fitting(plan.tokens, room, plan) for room in (5000, 1000, 999, 200)] == [1000, 1000, 800, 200]
    with pytest.raises(RequestError, match="fewer --rows"):
        fitting(plan.tokens, 199, plan)


def test_all_in_seconds(
    target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing to three drafts that the engine runs; then once more from what was kept."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is the opposite of a whale, and why?\n")
    flags = ["--target", str(target.path), "--work", str(tmp_path / "work"), "--prompts", str(prompts)]
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)

    def run(*arguments: str) -> list[dict[str, Any]]:
        assert cli.main(parser.parse_args(arguments)) == 0
        log = tmp_path / "drafts" / "log.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()]

    short = ["--rows", "24", "--steps", "48", "--most", "4000", "--instruction-tokens", "12", "--answer-tokens", "16"]
    short += [
        "--passage-tokens",
        "16",
        "--kept",
        "200",
        "--threads",
        "1",
        "--batch",
        "512",
        "--out",
        str(tmp_path / "drafts"),
    ]
    whole = ["all", *flags, *short, "--minutes", "0.25", "--keep", "--plain", "0.2", "--single", "0.2", "--f32"]
    lines = run(*whole)
    drafts = ["conditioned", "plain", "single"]
    assert [line["draft"] for line in lines if "seen" in line] == drafts
    assert all(line["seen"] > 0 for line in lines if "seen" in line)
    assert [read_config(tmp_path / "drafts" / draft).conditioned for draft in drafts] == [True, False, True]
    assert [read_config(tmp_path / "drafts" / draft).num_layers for draft in drafts] == [2, 2, 1]
    trained: list[bytes] = []

    def weights(student: Student, *args: Any, **options: Any) -> Any:
        trained.append(b"".join(value.numpy().tobytes() for value in student.state_dict().values()))
        return measure(student, *args, **options)

    monkeypatch.setattr(ablation, "measure", weights)
    again = run(*whole, "--start", str(tmp_path / "drafts" / "conditioned"), "--ablation", "900")[len(lines) :]
    assert next(line["found"] for line in again if "found" in line) > 0
    compared = {line["without"]: line for line in again if "without" in line}
    assert list(compared) == list(VARIANTS)
    assert all(900 <= line["seen"] < 900 + 512 and line["cold"]["kept"] for line in compared.values())
    few, all_ = (compared[name]["dialogues"] for name in ("a quarter of the texts", "nothing left out"))
    assert few == -(-all_ // 4)
    assert len(set(trained)) == len(VARIANTS)  # each of them is another draft
    capsys.readouterr()
    run(
        "evaluate",
        *flags,
        "--draft",
        str(tmp_path / "drafts" / "conditioned"),
        "--k",
        "2,4",
        "--max-tokens",
        "24",
        "--json",
    )
    for entry in json.loads(capsys.readouterr().out):
        assert entry["emitted"] > 0
