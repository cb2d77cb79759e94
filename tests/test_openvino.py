"""The embedded target on the default engine, against transformers in float32 and against itself."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint
from app.backends.openvino import model as engine
from app.backends.openvino.model import COPIES, FEW_WIDTHS, WIDTHS, OpenVinoModel, OpenVinoSequence, arithmetic
from app.engine.model import KVCache, Model
from app.engine.pair import Pair
from app.engine.session import Session
from app.errors import PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

Load = Callable[[str], Pair]
REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "support" / "reference" / "smollm2.json").read_text())
CASES: list[dict[str, Any]] = REFERENCE["cases"]


def logits_after(model: Model, ids: list[int]) -> NDArray[np.float32]:
    sequence = model.new_sequence()
    row = np.array(sequence.forward(ids, 1)[0])
    sequence.close()
    return row


def test_the_chat_template_and_tokenizer_give_the_references_ids(embedded: Pair) -> None:
    for case in CASES:
        assert embedded.tokenizer.encode_chat([{"role": "user", "content": case["prompt"]}]) == case["prompt_ids"]


def test_f32_logits_are_the_references(load_embedded: Load) -> None:
    target = load_embedded("f32").target
    for case in CASES:
        ours = logits_after(target, case["prompt_ids"])
        np.testing.assert_allclose(ours[:: REFERENCE["stride"]], case["logits"], atol=1e-3)


def test_f32_greedy_text_is_the_references(load_embedded: Load) -> None:
    """One pass a text: it is greedy's where every token is the likeliest after those before it."""
    target = load_embedded("f32").target
    for case in CASES:
        prompt, answer = case["prompt_ids"], case["greedy_ids"]
        sequence = target.new_sequence()
        rows = sequence.forward(prompt + answer, len(answer) + 1)[:-1]
        sequence.close()
        assert rows.argmax(1).tolist() == answer, case["prompt"]


def perplexity(pair: Pair, text: str) -> float:
    """exp of the mean surprise at every token after the first of each 256."""
    surprises = []
    sequence = pair.target.new_sequence()
    every = pair.tokenizer.encode(text)
    for begin in range(0, len(every) - 255, 256):  # one length: the plugin builds kernels for each
        ids = every[begin : begin + 256]
        sequence.rollback(0)
        logits = sequence.forward(ids, len(ids))[:-1].astype(np.float64)
        largest = logits.max(1)
        normaliser = largest + np.log(np.exp(logits - largest[:, None]).sum(1))
        surprises.append(normaliser - logits[np.arange(len(ids) - 1), ids[1:]])
    sequence.close()
    return float(np.exp(np.concatenate(surprises).mean()))


@pytest.mark.parametrize(("dtype", "draft"), [("int8", "int8"), ("bf16", "int8"), ("f32", "f32")])
def test_a_draft_packed_in_8_bits_runs_in_them_beside_a_wider_target(
    load_embedded: Load, dtype: str, draft: str
) -> None:
    """All but f32, which is there to compare engines."""
    pair = load_embedded(dtype)
    assert pair.draft is not None
    assert (pair.target.dtype, pair.draft.dtype) == (dtype, draft)


def test_int8_has_the_perplexity_of_the_exact_weights_within_1_percent(load_embedded: Load) -> None:
    """The f32 engine holds the GGUF's values exactly; the text is of every third held-out prompt."""
    prompts = json.loads((Path(__file__).parent.parent / "assets" / "prompts.json").read_text(encoding="utf-8"))
    text = "\n\n".join(entry["prompt"] for entry in prompts[::3])
    exact, int8 = (perplexity(load_embedded(dtype), text) for dtype in ("f32", "int8"))
    assert abs(int8 / exact - 1) < 0.01, (int8, exact)


@pytest.mark.parametrize("dtype", ["int8", "f32"])
def test_logits_are_bit_identical_in_every_window(load_embedded: Load, dtype: str) -> None:
    """Window 1 (a single row), 2..16 and 17 rows at once, pass upon pass: the same bits for the same position; f32
    weights are too large for programs of their own."""
    target = load_embedded(dtype).target
    assert target.bit_identical
    prompt, window = CASES[0]["prompt_ids"], CASES[1]["prompt_ids"][:17]
    sequence = target.new_sequence()
    sequence.forward(prompt, 1)
    rows = walked(sequence, len(prompt), window, 17)
    for width in range(1, 17):
        assert np.array_equal(walked(sequence, len(prompt), window, width), rows), width
    sequence.close()


@pytest.mark.parametrize("dtype", ["int8", "bf16"])
def test_logits_are_bit_identical_in_the_programs_of_all_windows(load_embedded: Load, dtype: str) -> None:
    """Sequences made for the window of each program, narrower passes padded up to it, against one that scores row by
    row; and the widths that one sequence of many windows changes between."""
    target = load_embedded(dtype).target
    prompt, window = CASES[0]["prompt_ids"], CASES[1]["prompt_ids"][:16]
    alone = target.new_sequence((1,))
    alone.forward(prompt, 1)
    rows = walked(alone, len(prompt), window, 1)
    alone.close()
    every = [*((width,) for width in WIDTHS), tuple(range(1, 17))]
    for made_for in every if dtype == "int8" else [(5,), (1, 16)]:
        sequence = target.new_sequence(made_for)
        sequence.forward(prompt, 1)
        for width in {1, max(made_for) - 1, max(made_for)}:
            assert np.array_equal(walked(sequence, len(prompt), window, width), rows), (made_for, width)
        sequence.close()
    for window in range(2, 17) if dtype == "int8" else ():
        sequence = cast(OpenVinoSequence, target.new_sequence((window,)))
        width = next(width for width in WIDTHS if width >= window)
        assert sequence.widths == dict.fromkeys(range(1, width + 1), width), "it runs on one of those above"
        sequence.close()


def test_a_short_prompt_is_read_by_the_same_program_whatever_the_window(embedded: Pair) -> None:
    ids = CASES[0]["prompt_ids"][:4]
    rows = []
    for windows in ((), (1,), (5,), (16,)):
        sequence = embedded.target.new_sequence(windows)
        rows.append(sequence.forward(ids, 1).copy())
        sequence.close()
    assert all(np.array_equal(row, rows[0]) for row in rows)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(save_directory(tmp_path_factory.mktemp("tiny"), TINY, weights(TINY)))


def test_a_window_at_the_end_of_the_context_has_room_for_the_rows_it_is_padded_with(tiny: Path) -> None:
    target = pairs.load(PairOptions(target=tiny, n_positions=62)).target
    alone, wide = target.new_sequence((1,)), target.new_sequence((16,))
    for sequence in (alone, wide):
        sequence.forward(list(range(58)), 1)
    last = walked(alone, 58, [5, 6, 7, 8], 1)
    assert np.array_equal(walked(wide, 58, [5, 6, 7, 8], 4), last)
    assert wide.length == target.n_positions


def walked(sequence: KVCache, base: int, window: list[int], width: int) -> NDArray[np.float32]:
    """The window's rows, scored in passes of `width` upon the first `base` tokens, the last pass what is left."""
    sequence.rollback(base)
    passes = [window[start : start + width] for start in range(0, len(window), width)]
    return np.concatenate([sequence.forward(ids, len(ids)).copy() for ids in passes])


def test_forward_rollback_forward_equals_a_fresh_forward(embedded: Pair) -> None:
    """What was rolled back leaves no trace, even with other tokens in its place and over a block's border."""
    ids = CASES[7]["prompt_ids"]
    fresh = logits_after(embedded.target, ids)
    sequence = embedded.target.new_sequence()
    for cut in (5, 31, 32, 33):
        sequence.rollback(0)
        sequence.forward(ids[:cut], 1)
        sequence.forward(list(range(1000, 1040)), 1)
        sequence.rollback(cut)
        assert sequence.length == cut
        assert np.allclose(sequence.forward(ids[cut:], 1)[0], fresh, atol=2e-3)
    sequence.close()


def test_num_logits_gives_the_last_rows(embedded: Pair) -> None:
    ids = CASES[0]["prompt_ids"]
    sequence = embedded.target.new_sequence()
    every = sequence.forward(ids, len(ids)).copy()
    assert every.shape == (len(ids), embedded.target.vocab_size)
    for rows in (1, 2, 5):
        sequence.rollback(0)
        assert np.array_equal(sequence.forward(ids, rows), every[-rows:])
    sequence.close()


def test_long_prompts_are_read_in_parts(embedded: Pair) -> None:
    ids = (CASES[7]["prompt_ids"] * 12)[:300]
    sequence = embedded.target.new_sequence()
    at_once = sequence.forward(ids, 1)[0].copy()
    assert sequence.length == 300
    sequence.rollback(0)
    for start in range(0, 300, 100):
        last = sequence.forward(ids[start : start + 100], 1)[0]
    assert np.allclose(last, at_once, atol=2e-3)
    sequence.close()


def test_two_sequences_do_not_touch_each_other(embedded: Pair) -> None:
    ids, other = CASES[0]["prompt_ids"], CASES[2]["prompt_ids"]
    alone = logits_after(embedded.target, [*ids, 42])
    first, second = embedded.target.new_sequence(), embedded.target.new_sequence()
    first.forward(ids, 1)
    second.forward(other, 1)
    together = first.forward([42], 1)[0]
    assert np.allclose(together, alone, atol=2e-3)
    assert int(together.argmax()) == int(alone.argmax())
    first.close()
    second.close()


def test_the_draft_covers_its_kept_ids_and_nothing_else(embedded: Pair) -> None:
    assert embedded.draft is not None
    row, kept = logits_after(embedded.draft, CASES[0]["prompt_ids"]), embedded.draft.kept_ids
    assert kept is not None
    assert row.shape == kept.shape
    assert np.isfinite(row).all()
    assert 1000 < len(kept) < embedded.target.vocab_size
    assert embedded.tokenizer.stop_ids <= set(kept.tolist())  # a draft that cannot stop never ends a window


def test_a_sequence_refuses_what_the_contract_forbids(embedded: Pair) -> None:
    sequence = embedded.target.new_sequence()
    sequence.forward([1, 2, 3], 1)
    with pytest.raises(AssertionError):
        sequence.forward([4], 2)
    with pytest.raises(AssertionError):
        sequence.rollback(4)
    with pytest.raises(AssertionError):
        sequence.forward([1] * embedded.target.n_positions, 1)
    sequence.close()


def test_where_memory_is_short_all_windows_share_one_program(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = pairs.load(PairOptions(target=tiny)).target.memory()
    monkeypatch.setattr("app.backends.openvino.model.free_memory", lambda: COPIES * size - 1)
    target = pairs.load(PairOptions(target=tiny)).target
    alone, wide = target.new_sequence((1,)), target.new_sequence((5,))
    for sequence in (alone, wide):
        sequence.forward(list(range(40)), 1)
    assert np.array_equal(walked(wide, 40, [5, 6, 7, 8, 9], 5), walked(alone, 40, [5, 6, 7, 8, 9], 1))
    assert isinstance(target, OpenVinoModel)
    assert list(target.programs) == [None]


def test_programs_meet_a_long_context_before_a_run_does(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: dict[int | None, int] = {}
    score = engine._Pass.score

    def watched(self: Any, *arguments: Any) -> Any:
        result = score(self, *arguments)
        met[self._width] = max(met.get(self._width, 0), int(self._context))
        return result

    monkeypatch.setattr(engine._Pass, "score", watched)
    target = pairs.load(PairOptions(target=tiny)).target
    sequence = target.new_sequence((1, 5))
    longest = min(engine.LONGEST, target.n_positions)
    assert met == {None: longest, 2: longest, 5: longest}
    met.clear()
    sequence.forward([1, 2, 3], 1)
    sequence.forward([4], 1)
    assert met == {None: 3, 2: 5}, "and a run is told what there is, with the row that makes it two"


def test_what_is_prepared_is_not_made_again(tiny: Path) -> None:
    """A program a step, the same that a sequence would make; a run is for the windows of k = auto as before."""
    pair = pairs.load(PairOptions(target=tiny))
    target = cast(Any, pair.target)
    session = Session(Pair(pair.name, pair.backend, target, target, pair.tokenizer))
    assert list(target.programs) == [None]
    steps = session.prepare()
    next(steps)
    assert list(target.programs) == [None, 2]
    deque(steps, maxlen=0)
    made = dict(target.programs)
    few = FEW_WIDTHS[arithmetic(ov.Core(), "int8")]
    assert list(made) == [None, *sorted({2, *few})]
    target.new_sequence((1, *range(2, 17))).close()
    assert target.programs == made
    assert list(session.prepare()) == []


def test_in_32_bits_no_pass_of_a_draft_has_idle_rows_and_the_target_has_narrow_programs(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(save_directory(tmp_path / "tiny", TINY, weights(TINY)))
    ids = list(range(1, 10))

    def logits(windows: tuple[int, ...], drafts: bool) -> tuple[dict[int, int], list[NDArray[np.float32]]]:
        model = OpenVinoModel(checkpoint.config, lambda: checkpoint, name="tiny", dtype="f32", drafts=drafts)
        sequence = model.new_sequence(windows)
        sequence.forward(ids, 1)
        passes = [sequence.forward(ids[:rows], rows).copy() for rows in (1, 3, 4)]
        return sequence.widths, passes

    widths, drafted = logits((1, 4), drafts=True)
    assert widths == {1: 1, 2: 2, 3: 3, 4: 4}
    widths, scored = logits((1, 4), drafts=False)
    assert widths == {1: 2, 2: 4, 3: 4, 4: 4}
    for one, other in zip(drafted, scored, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert logits((1, *range(2, 17)), drafts=False)[0] == {
        1: 2,
        2: 2,
        3: 3,
        4: 4,
        **dict.fromkeys(range(5, 9), 8),
        **dict.fromkeys(range(9, 17), 16),
    }


def test_a_processor_that_cannot_run_it_is_told_of_with_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a processor without paged attention says, at compiling or in the first pass, or gives for logits."""
    save_directory(tmp_path / "tiny", TINY, weights(TINY))
    checkpoint = SafetensorsCheckpoint(tmp_path / "tiny")

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Exception from src/plugin.cpp:1:\nPagedAttention is not supported")

    with monkeypatch.context() as patch:
        patch.setattr(ov.Core, "compile_model", refuse)
        with pytest.raises(PairError, match=r"cannot run tiny on .*not supported\); start with --backend llamacpp or"):
            OpenVinoModel(checkpoint.config, lambda: checkpoint, name="tiny")
    for forward in (refuse, lambda *_: np.full((1, 128), np.nan, np.float32)):
        with monkeypatch.context() as patch:
            patch.setattr(OpenVinoSequence, "forward", forward)
            with pytest.raises(PairError, match=r"supported\); start with|no numbers\); start with"):
                OpenVinoModel(checkpoint.config, lambda: checkpoint, name="tiny")
