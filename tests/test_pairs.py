"""Pairs: written down, checked before anything is loaded, refused in a sentence."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from app.__main__ import parser
from app.cli.flags import pair_options
from app.engine.pair import Pair
from app.engine.session import Session
from app.errors import PairError, RequestError
from app.pairs import memory, pair_files
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, RunStarted, Sampling
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path))


def tiny(directory: Path, change: dict[str, Any] | None = None, **tokenizer: Any) -> Path:
    config = {**TINY, **(change or {})}
    return save_tokenizer(save_directory(directory, config, weights(config)), **tokenizer)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- pair files ---


def test_a_pair_file_says_what_the_flags_say(tmp_path: Path) -> None:
    target = tiny(tmp_path / "big")
    file = write(
        tmp_path / "pair.toml",
        'target = "big"\ndraft = "meta-llama/Llama-3.2-1B"\nbackend = "torch"\ndtype = "bf16"\nn_positions = 512\n'
        'draft_revision = "abc"\nwindows = [5, 2, 3]\nartifacts = "compiled"\n',
    )
    assert pair_files.read(file) == PairOptions(
        backend="torch",
        target=target,
        draft=Path("meta-llama/Llama-3.2-1B"),  # nothing lies beside the file under this name
        dtype="bf16",
        n_positions=512,
        draft_revision="abc",
        windows=(2, 3, 5),
        artifacts=tmp_path / "compiled",
    )


def test_an_empty_pair_file_is_the_embedded_pair(tmp_path: Path) -> None:
    assert pair_files.read(write(tmp_path / "pair.toml", "")) == PairOptions()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("target = ", "is not valid TOML"),
        ('traget = "x"', "unknown key 'traget'; known are backend, target"),
        ("target = 3", "gives 3 for target; write a text in quotes"),
        ('n_positions = "many"', "gives 'many' for n_positions; write a whole number"),
        ("threads = true", "gives True for threads"),
        ('windows = "2,3"', "write windows = "),
    ],
)
def test_a_wrong_pair_file_is_a_sentence_that_names_it(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(PairError, match=fault) as caught:
        pair_files.read(write(tmp_path / "pair.toml", text))
    assert "pair.toml" in str(caught.value)
    assert str(caught.value).endswith(".")


def test_flags_beside_a_pair_file_have_precedence(tmp_path: Path) -> None:
    file = write(tmp_path / "pair.toml", 'backend = "torch"\ndtype = "bf16"\nn_positions = 512\n')
    options = parser().parse_args(["run", "--prompt", "x", "--pair", str(file), "--dtype", "f32"])
    assert pair_options(options) == PairOptions(backend="torch", dtype="f32", n_positions=512)
    assert pair_options(parser().parse_args(["run", "--prompt", "x"])) == PairOptions()


def test_a_folder_of_pair_files_is_listed_by_name(tmp_path: Path) -> None:
    write(tmp_path / "small.toml", 'dtype = "f32"')
    write(tmp_path / "big.toml", 'dtype = "bf16"')
    write(tmp_path / "notes.txt", "no pair")
    assert list(pair_files.listed(tmp_path).items()) == [
        ("big", PairOptions(dtype="bf16")),
        ("small", PairOptions(dtype="f32")),
    ]
    for bad, fault in ((tmp_path / "absent", "no directory"), (tmp_path / "empty", "holds no pair file")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(PairError, match=fault):
            pair_files.listed(bad)


# --- checked before loading ---


def options(target: Path, draft: Path | None = None, **more: Any) -> PairOptions:
    return PairOptions(target=target, draft=draft, dtype="f32", **more)


def test_tokenizers_are_compared_id_by_id(tmp_path: Path) -> None:
    target = tiny(tmp_path / "target")
    pairs.prepare(options(target, tiny(tmp_path / "other name")))
    with pytest.raises(PairError, match=r"different tokenizers \(token 77 is b'n' in one and b'XYZ' in the other\)"):
        pairs.prepare(options(target, tiny(tmp_path / "draft", changed=77)))


@pytest.mark.slow
def test_a_padded_vocabulary_is_allowed_and_runs(tmp_path: Path) -> None:
    """Rows beyond the tokenizer, in either model, and a tokenizer that knows fewer ids."""
    target = tiny(tmp_path / "target", {"vocab_size": 160})
    for name, change, size in (
        ("same", {}, 128),
        ("wide", {"vocab_size": 192}, 128),
        ("narrow", {"vocab_size": 120}, 120),
    ):
        session = Session(pairs.load(options(target, tiny(tmp_path / name, change, size=size))))
        request = Request(prompt="HELLO", chat_template=False, max_tokens=40, sampling=Sampling(2.0), acceptor="exact")
        metrics = Metrics(session.run(request))
        assert metrics.reason in ("stop", "length"), metrics.message
        assert metrics.first_divergence is None
        assert max(metrics.arms["target"].token_ids) >= 128  # the padding is said, and read by the draft


@pytest.mark.slow
def test_the_shorter_context_counts(tmp_path: Path) -> None:
    target, draft = tiny(tmp_path / "target"), tiny(tmp_path / "draft", {"max_position_embeddings": 32})
    metrics = Metrics(Session(pairs.load(options(target, draft))).run(Request(prompt="HELLO", chat_template=False)))
    assert metrics.reason == "context"
    assert len(metrics.arms["target"].token_ids) == len(metrics.arms["speculative"].token_ids) == 32 - 5


def test_memory_is_estimated_against_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = options(tiny(tmp_path / "target"), tiny(tmp_path / "draft", {"max_position_embeddings": 128}))
    weights_, position = 2 * 78144 * 4, 3 * 2 * 2 * 2 * 16 * 4
    need = weights_ + 128 * position
    monkeypatch.setattr(memory, "free_memory", lambda: need)
    pairs.prepare(pair)
    monkeypatch.setattr(memory, "free_memory", lambda: need - 1)
    with pytest.raises(PairError, match=r"needs about 0\.\d GB \(target 0\.\d GB, draft .* are free; choose") as caught:
        pairs.prepare(pair)
    assert str(caught.value).endswith(".")
    pairs.prepare(pair, freed=1)  # what the pair before it gives back
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    pairs.prepare(pair)


def test_a_processor_without_bf16_keeps_the_cache_in_f32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.backends.openvino import model as openvino

    pair = PairOptions(target=tiny(tmp_path / "target"), draft=tiny(tmp_path / "draft"), dtype="bf16")
    weights_, values = 2 * 78144 * 2, 256 * 3 * 2 * 2 * 2 * 16
    for precision, need in (("bf16", weights_ + 2 * values), ("f32", weights_ + 4 * values)):
        monkeypatch.setattr(openvino, "arithmetic", lambda core, dtype, precision=precision: precision)
        monkeypatch.setattr(memory, "free_memory", lambda need=need: need)
        pairs.prepare(pair)
        monkeypatch.setattr(memory, "free_memory", lambda need=need: need - 1)
        with pytest.raises(PairError, match="needs about"):
            pairs.prepare(pair)


def test_a_long_context_that_does_not_fit_is_told_which_one_does() -> None:
    needs = [memory.Need("8B", 16_000_000_000, 34_000_000_000), memory.Need("1B", 2_000_000_000, 2_000_000_000)]
    with pytest.raises(
        PairError, match=r"needs about 54\.0 GB .*24\.0 GB of memory are free; choose --n-positions 21760"
    ):
        memory.check(needs, 24_000_000_000, 131072)
    with pytest.raises(PairError, match="smaller --dtype or a smaller model"):
        memory.check(needs, 10_000_000_000, 131072)


def test_models_are_loaded_one_after_the_other_and_then_run() -> None:
    """A first start's peak counts where it is above what running takes; a later one needs what running takes."""
    target, draft = memory.Need("target", 1000, 100, peak=1.5), memory.Need("draft", 100, 50, peak=1.5)
    assert memory.most([target, draft]) == 1500
    assert memory.most([draft, target]) == 1600
    assert memory.most([memory.Need("target", 1000, 900), draft]) == 2050
    with pytest.raises(PairError, match=r"needs about 1500\.0 GB .*; choose a smaller --dtype or a smaller model"):
        memory.check([memory.Need("target", 10**12, 10**11, peak=1.5)], 14 * 10**11, 4096)


def test_a_first_start_needs_more_than_a_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    pair = PairOptions(target=tiny(tmp_path / "target"), dtype="f32", n_positions=2)
    need = 78144 * 4 + 2 * 2 * 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(memory, "free_memory", lambda: need)
    with pytest.raises(PairError, match="needs about"):
        pairs.prepare(pair)
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    pairs.load(pair)
    monkeypatch.setattr(memory, "free_memory", lambda: need)
    pairs.prepare(pair)


def test_this_machine_says_what_is_free() -> None:
    free = memory.free_memory()
    assert free is None or 2**20 < free < 2**50


# --- one pair in another's place ---

HELLO = Request(prompt="HELLO", chat_template=False, max_tokens=12, drafter="lookup")


@pytest.fixture
def two(tmp_path: Path) -> Session:
    """A session of `first`, which may switch to `second`, a pair with a draft, or to others that do not load."""
    first = options(tiny(tmp_path / "first"))
    second = options(tiny(tmp_path / "second", {"vocab_size": 160}), tiny(tmp_path / "small"))
    cut_off = tiny(tmp_path / "cut off")
    (cut_off / "model.safetensors").write_bytes((cut_off / "model.safetensors").read_bytes()[:-4000])
    listed = {
        "first": first,
        "second": second,
        "another family": options(first.target or Path(), tiny(tmp_path / "draft", changed=3)),
        "cut off": options(cut_off),
        "neuron": PairOptions(backend="neuron"),
    }
    return Session(pairs.load(first), None, {name: pairs.ListedPair(pair) for name, pair in listed.items()})


@pytest.mark.slow
def test_another_pair_takes_the_place_of_the_first_which_is_freed(two: Session) -> None:
    assert (two.chosen, two.pair, two.drafters) == ("first", "first", ("lookup",))
    assert Metrics(two.run(HELLO)).reason in ("stop", "length")
    assert two._loaded is not None
    old = weakref.ref(two._loaded.target)
    two.switch("second")
    assert old() is None
    assert (two.chosen, two.pair, two.target.vocab_size) == ("second", "second + small", 160)
    assert two.drafters == ("draft", "lookup", "draft+lookup")
    events = list(two.run(HELLO))
    assert isinstance(events[0], RunStarted)
    assert events[0].pair == "second + small"
    assert Metrics(events).first_divergence is None
    two.switch("second")
    two.switch("first")
    assert two.draft is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("another family", "have different tokenizers"),
        ("cut off", "is damaged"),
        ("neuron", "by --pair FILE"),
        ("/etc/passwd", "no pair '/etc/passwd' here; choose one of first, second"),
    ],
)
def test_a_pair_that_cannot_be_loaded_leaves_the_loaded_one(two: Session, name: str, fault: str) -> None:
    with pytest.raises((PairError, RequestError), match=fault) as caught:
        two.switch(name)
    assert str(caught.value).endswith(".")
    assert two.chosen == "first"
    assert Metrics(two.run(HELLO)).reason in ("stop", "length")


def test_a_pair_too_large_is_refused_with_the_loaded_one_kept(two: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = two._loaded
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    with pytest.raises(PairError, match="are free"):
        two.switch("second")
    assert two._loaded is loaded


@pytest.mark.slow
def test_a_run_that_waited_while_the_pair_changed_reads_its_prompt_anew(two: Session) -> None:
    waiting = two.run(HELLO)
    two.switch("second")
    events = list(waiting)
    assert isinstance(events[0], RunStarted)
    assert events[0].pair == "second + small"
    assert Metrics(events).reason in ("stop", "length")


@pytest.mark.slow
def test_a_switch_waits_for_the_run_before_it(two: Session) -> None:
    run = two.run(HELLO)
    next(run)
    thread = threading.Thread(target=two.switch, args=("second",))
    thread.start()
    thread.join(0.3)
    assert (thread.is_alive(), two.chosen) == (True, "first")
    run.close()
    thread.join(60)
    assert two.chosen == "second"


@pytest.mark.slow
def test_where_no_pair_is_left_a_run_says_so(two: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, faults = pairs.prepare, [PairError("It broke off.")]

    def break_off() -> Pair:
        raise faults.pop()

    def gone(pair: PairOptions, freed: int = 0) -> Callable[[], Pair]:
        if pair.target is not None and pair.target.name == "first":
            raise PairError("It is gone.")
        load = prepare(pair, freed)
        return break_off if faults else load

    monkeypatch.setattr(pairs, "prepare", gone)
    with pytest.raises(PairError, match="It is gone"):
        two.switch("second")
    with pytest.raises(RequestError, match="No pair is loaded"):
        two.run(HELLO)
    two.switch("second")
    assert Metrics(two.run(HELLO)).reason in ("stop", "length")


def test_one_bad_pair_file_keeps_the_others_from_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "good.toml", "")
    write(tmp_path / "bad.toml", "nonsense = [")
    assert list(pair_files.listed(tmp_path)) == ["good"]
    assert "bad.toml is not offered" in caplog.text


@pytest.mark.slow
def test_a_token_that_only_the_tokenizer_knows_is_refused_in_a_prompt(tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(["<pad>"])  # as fine-tuners do, without a row for it
    tokenizer.save(str(path / "tokenizer.json"))
    session = Session(pairs.load(options(path)))
    assert Metrics(session.run(HELLO)).reason in ("stop", "length")
    with pytest.raises(RequestError, match=r"holds '<pad>', a token that tiny has no weights for; take it out\."):
        session.run(replace(HELLO, prompt="+,<pad>"))
