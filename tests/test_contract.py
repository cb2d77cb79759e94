"""What every engine promises of `app.engine.model`, on tiny checkpoints, one test for all; and that the engines
agree."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from app.engine.model import Model, StatesCache
from app.engine.pair import Pair
from app.engine.session import Session
from app.errors import PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, Round, RunFinished, RunStarted, Sampling
from tests.support.llamas import (
    LLAMA3,
    TINY,
    conditioned,
    conditioned_weights,
    reference_logits,
    reference_states,
    save_directory,
    save_tokenizer,
    weights,
)

TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="needs app/backends/requirements-torch.txt",
)
BACKENDS = ["openvino", pytest.param("torch", marks=[TORCH, pytest.mark.slow])]
IDS = [5, 17, 3, 99, 64, 2, 2, 120, 31, 8] * 8
Rows = NDArray[np.float32]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tiny(directory: Path, config: dict[str, Any] = TINY, *, seed: int = 0, shards: int = 1, bias: bool = False) -> Path:
    said = {**config, "attention_bias": True} if bias else config
    return save_tokenizer(save_directory(directory, said, weights(config, seed, bias=bias), shards=shards))


def load(backend: str, target: Path, draft: Path | None = None, **options: Any) -> Pair:
    """On one thread: two wait for each other, which on a busy machine takes longer than the work."""
    device = "cpu" if backend == "torch" else None
    given = {"dtype": "f32", "threads": 1, **options}
    return pairs.load(PairOptions(backend=backend, target=target, draft=draft, device=device, **given))


def target_of(path: Path, backend: str, **options: Any) -> Model:
    return load(backend, path, **options).target


@pytest.fixture(scope="module")
def plain_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """The plain tiny target by backend, loaded once: a test works on sequences of its own."""
    return cache(lambda backend: target_of(tiny(tmp_path_factory.mktemp("plain") / "tiny"), backend))


@pytest.fixture
def plain(plain_of: Callable[[str], Model], backend: str) -> Model:
    return plain_of(backend)


KEPT = np.arange(3, 123, 3)


@pytest.fixture(scope="module")
def sighted_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """By backend, loaded once: a target, and a draft that reads its states and scores KEPT."""

    def sighted(backend: str) -> Pair:
        directory = tmp_path_factory.mktemp("sighted")
        return load(backend, tiny(directory / "target"), conditioned(directory / "draft", KEPT))

    return cache(sighted)


@pytest.fixture
def sighted_pair(sighted_of: Callable[[str], Pair], backend: str) -> Pair:
    return sighted_of(backend)


def near(rows: Rows, others: Rows) -> bool:
    return bool(np.allclose(rows, others, atol=1e-4 * np.abs(others).max()))


@pytest.mark.slow
def test_the_formulas_are_computed(tmp_path: Path, backend: str) -> None:
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"tie_word_embeddings": True}, False),
        ({"head_dim": 32}, True),
    ]
    for number, (change, bias) in enumerate(cases):
        config = {**TINY, **change}
        model = target_of(tiny(tmp_path / str(number), config, bias=bias), backend)
        expected = reference_logits(config, weights(config, bias=bias), IDS)
        np.testing.assert_allclose(
            model.new_sequence().forward(IDS, len(IDS)), expected, atol=1e-3 * np.abs(expected).max()
        )


def test_a_llama_3_in_small_is_what_the_formulas_say_and_the_same_everywhere(tmp_path: Path, backend: str) -> None:
    path = tiny(tmp_path / "llama3", LLAMA3, shards=3)
    pair = load(backend, path)
    assert pair.tokenizer.stop_ids == {100, 101}
    assert (pair.target.vocab_size, pair.tokenizer.vocab_size) == (144, 128)
    expected = reference_logits(LLAMA3, weights(LLAMA3), IDS)
    rows = pair.target.new_sequence().forward(IDS, len(IDS))
    np.testing.assert_allclose(rows, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@TORCH
@pytest.mark.parametrize("config", [LLAMA3, TINY])
def test_the_engines_agree(tmp_path: Path, config: dict[str, Any]) -> None:
    path = tiny(tmp_path / "tiny", config, shards=2, bias=True)
    one, other = (target_of(path, name).new_sequence().forward(IDS, len(IDS)) for name in ("openvino", "torch"))
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())
    assert (one.argmax(1) == other.argmax(1)).all()


def test_num_logits_gives_the_last_rows(plain: Model) -> None:
    sequence = plain.new_sequence()
    every = sequence.forward(IDS, len(IDS)).copy()
    assert every.shape == (len(IDS), 128)
    assert every.dtype == np.float32
    for rows in (1, 2, 5):
        sequence.rollback(0)
        assert near(sequence.forward(IDS, rows), every[-rows:])
        assert sequence.length == len(IDS)


def test_what_was_rolled_back_leaves_no_trace(plain: Model) -> None:
    fresh = plain.new_sequence().forward(IDS, 1).copy()
    sequence = plain.new_sequence()
    for cut in (0, 1, 31, 32, 33, 79):
        sequence.rollback(0)
        if cut:
            sequence.forward(IDS[:cut], 1)
        sequence.forward([77] * 40, 3)
        sequence.rollback(cut)
        assert sequence.length == cut
        assert near(sequence.forward(IDS[cut:], 1), fresh)
    sequence.close()


def test_sequences_share_weights_and_nothing_else(plain: Model) -> None:
    alone = plain.new_sequence().forward([*IDS, 42], 1).copy()
    first, second = plain.new_sequence(), plain.new_sequence()
    first.forward(IDS, 1)
    second.forward(IDS[:7], 1)
    second.rollback(3)
    assert (first.length, second.length) == (len(IDS), 3)
    assert near(first.forward([42], 1), alone)
    first.close()
    again = plain.new_sequence()
    assert again.length == 0
    assert near(again.forward([*IDS, 42], 1), alone)


def test_a_row_is_near_the_same_in_every_window_and_the_promise_says_how_near(plain: Model) -> None:
    sequence = plain.new_sequence()
    together = sequence.forward(IDS, 9).copy()
    for width in (1, 2, 4, 8):
        sequence.rollback(len(IDS) - width)
        rows = sequence.forward(IDS[-width:], width)
        assert near(rows, together[-width:])
        if plain.bit_identical:
            assert np.array_equal(rows, together[-width:])


def test_breaking_the_contract_is_an_assertion(tmp_path: Path, backend: str) -> None:
    model = target_of(tiny(tmp_path / "tiny"), backend, n_positions=40)
    assert model.n_positions == 40
    sequence = model.new_sequence()
    sequence.forward(IDS[:40], 1)
    for broken in (lambda: sequence.forward([1], 1), lambda: sequence.rollback(41)):
        with pytest.raises(AssertionError):
            broken()
    sequence.rollback(3)
    for rows in (0, 2):
        with pytest.raises(AssertionError):
            sequence.forward([4], rows)


def test_a_long_prompt_is_read_in_parts(plain: Model, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = plain.new_sequence().forward(IDS, 3).copy()
    monkeypatch.setattr(f"app.backends.{backend}.model.PREFILL", 16)
    sequence = plain.new_sequence()
    assert near(sequence.forward(IDS, 3), at_once)
    assert sequence.length == len(IDS)


@pytest.fixture
def trimmed_pair(tmp_path: Path) -> tuple[Path, Path]:
    """A target, and a draft of one layer that scores 40 ids and uses the target's embeddings."""
    target = tiny(tmp_path / "target")
    config = {**TINY, "num_hidden_layers": 1, "playground": {"kept_ids": 40}}
    tensors = weights(config, seed=1)
    kept = np.arange(3, 123, 3)
    del tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"][kept])
    draft = save_directory(tmp_path / "draft", config, {})
    save_file({**tensors, "kept_ids": kept}, draft / "model.safetensors")
    return target, draft


def test_a_trimmed_draft_uses_its_targets_embeddings(trimmed_pair: tuple[Path, Path], backend: str) -> None:
    target, draft = trimmed_pair
    pair = load(backend, target, draft)
    assert pair.draft is not None
    rows = pair.draft.new_sequence().forward(IDS, 2)
    assert rows.shape == (2, 40)
    kept = pair.draft.kept_ids
    assert kept is not None
    assert kept.tolist() == list(range(3, 123, 3))
    config = {**TINY, "num_hidden_layers": 1}
    own = weights({**config, "playground": {}}, seed=1)
    own["model.embed_tokens.weight"] = weights(TINY)["model.embed_tokens.weight"]
    expected = reference_logits(config, own, IDS)[-2:]
    np.testing.assert_allclose(rows, expected[:, kept], atol=1e-4 * np.abs(expected).max())


def test_states_are_what_the_output_layer_reads(
    sighted_pair: Pair, plain: Model, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every token of the last pass, also where it was made in parts or by windows."""
    target = sighted_pair.target
    assert target.state_width == 64
    expected = reference_states(TINY, weights(TINY), IDS)
    cache = cast(StatesCache, target.new_sequence((1, 4)))
    monkeypatch.setattr(f"app.backends.{backend}.model.PREFILL", 16)
    cache.forward(IDS[:70], 1)
    np.testing.assert_allclose(cache.states, expected[:70], atol=1e-3)
    for begin, end in ((70, 71), (71, 75), (75, 80)):
        cache.forward(IDS[begin:end], end - begin)
        np.testing.assert_allclose(cache.states[: end - begin], expected[begin:end], atol=1e-3)
    assert plain.state_width is None
    assert not plain.reads_states


def test_a_draft_that_reads_states_computes_the_formulas(sighted_pair: Pair) -> None:
    draft = sighted_pair.draft
    assert draft is not None
    assert draft.reads_states
    before = np.random.default_rng(5).standard_normal((len(IDS), 128)).astype(np.float32)
    cache = cast(StatesCache, draft.new_sequence((1, 4)))
    for given in (None, before):
        known = np.zeros_like(before) if given is None else given
        expected = reference_logits(TINY | {"num_hidden_layers": 1}, conditioned_weights(), IDS, known)[:, KEPT]
        cache.rollback(0)
        for begin, end in ((0, 70), (70, 71), (71, 75), (75, 80)):
            rows = cache.forward(IDS[begin:end], 1, None if given is None else given[begin:end])
            np.testing.assert_allclose(rows[-1], expected[end - 1], atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_draft_reads_in_a_run_are_its_targets_states(sighted_pair: Pair, temperature: float) -> None:
    """Its q of every drafted token is that of the formulas over the text so far: the target's states for what is known,
    its own for what it guesses."""
    sampling = Sampling(temperature=temperature, top_p=0.9 if temperature else 1.0, seed=2)
    request = Request(prompt="HELLO", chat_template=False, max_tokens=16, k=4, arms="speculative", sampling=sampling)
    rounds = [each for each in Session(sighted_pair).run(request) if isinstance(each, Round)]
    shape, own = TINY | {"num_hidden_layers": 1}, conditioned_weights()
    context = sighted_pair.tokenizer.encode("HELLO")
    judged = 0
    for each in rounds:
        ids, before = list(context), np.zeros((len(context), 128))
        before[1:, :64] = reference_states(TINY, weights(TINY), ids)[:-1]
        for one in each.drafted:
            logits = reference_logits(shape, own, ids, before)[-1, KEPT]
            known = np.exp(logits - logits.max())
            assert one.draft_model_prob == pytest.approx(known[np.searchsorted(KEPT, one.id)] / known.sum(), abs=1e-4)
            state = reference_states(shape, own, ids, before)[-1]
            ids.append(one.id)
            before = np.concatenate([before, [[*np.zeros(64), *state]]])
            judged += 1
        context += each.token_ids
    assert judged > 12


@pytest.mark.slow
@TORCH
def test_the_engines_keep_the_same_drafts(sighted_of: Callable[[str], Pair]) -> None:
    request = Request(
        prompt="HELLO", chat_template=False, max_tokens=40, k=4, sampling=Sampling(temperature=1.0, seed=5)
    )

    def drafted(backend: str) -> list[tuple[str, int, list[int], list[str]]]:
        said = [each for each in Session(sighted_of(backend)).run(request) if isinstance(each, Round)]
        return sorted(
            (each.arm, each.index, [one.id for one in each.drafted], [one.state for one in each.drafted])
            for each in said
        )

    assert drafted("openvino") == drafted("torch")


@pytest.mark.slow
@pytest.mark.parametrize("sighted", [False, True])
def test_a_pair_runs_and_both_arms_agree(
    trimmed_pair: tuple[Path, Path], sighted_of: Callable[[str], Pair], backend: str, sighted: bool
) -> None:
    session = Session(sighted_of(backend) if sighted else load(backend, *trimmed_pair))
    for drafter in session.drafters:
        events = list(session.run(Request(prompt="HELLO", chat_template=False, max_tokens=60, drafter=drafter)))
        assert isinstance(events[0], RunStarted)
        assert events[0].backend == backend
        assert isinstance(events[-1], RunFinished)
        assert events[-1].reason in ("stop", "length"), events[-1].message
        assert Metrics(events).first_divergence is None


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), r"model\.layers\.1\.mlp\.up_proj\.weight"),
        (
            lambda tensors: tensors.update({"model.norm.weight": np.ones(60, np.float32)}),
            r"model\.norm\.weight has the shape \[60\]",
        ),
        (
            lambda tensors: tensors.update({"lm_head.weight": np.ones((128, 64), np.int8)}),
            r"stores lm_head\.weight as I8, which is not supported",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_names_the_tensor(
    tmp_path: Path, backend: str, spoil: Callable[..., Any], fault: str
) -> None:
    tensors = weights(TINY)
    spoil(tensors)
    path = save_tokenizer(save_directory(tmp_path / "spoilt", TINY, tensors))
    with pytest.raises(PairError, match=fault):
        target_of(path, backend)
