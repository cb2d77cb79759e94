"""Recorded programs, on the processor: what is replayed computes what the same functions do eagerly. The graphs are
fakes as strict as CUDA's (`tests.support.fake_graphs`); on a GPU the same is tested in tests/test_gpu.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.pair import Pair
from app.engine.session import Session
from app.record.trace import Request, Round, Sampling

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
from app.backends.torch import model, programs, ranks  # noqa: E402
from app.backends.torch.rows import to_host  # noqa: E402
from tests.support.fake_graphs import ILLEGAL, record_on_the_processor  # noqa: E402
from tests.support.torch_models import CPU, IDS, draft_of, model_of  # noqa: E402

pytestmark = pytest.mark.slow
WIDTHS = (2, 4, 8, 16)


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_the_processor(monkeypatch)


def faults(*models: model.TorchModel) -> list[str | None]:
    return [program.fault for each in models for program in each.programs()]


def both(make: Any) -> tuple[model.TorchModel, model.TorchModel]:
    """The same weights, recorded and not."""
    recorded, eager = make(), make()
    recorded.widths = eager.widths = WIDTHS
    recorded.rows_stay = eager.rows_stay = recorded.graphs = True
    return recorded, eager


def logits_of(made: model.TorchModel) -> Any:
    """Windows of all sizes, after rollbacks too, in two caches by turns; with states where they are given."""
    one, two = made.new_sequence((1, 5)), made.new_sequence((1, 5))
    rows, begin = [], 30
    for number, each in enumerate((one, two)):
        rows.append(each.forward(IDS[number : number + begin], 1))
    for back, count in ((0, 1), (0, 5), (3, 1), (0, 3), (2, 16), (9, 2), (0, 8), (0, 1)):
        for each in (two, one):
            each.rollback(each.length - back)
            read = {}
            if made.reads_states:
                given = np.random.default_rng(each.length).standard_normal((count, 2 * made.network.width))
                read = {"before": given.astype(np.float32)}
            rows.append(each.forward(IDS[each.length : each.length + count], count, **read))
            if made.state_width is not None:
                rows.append(to_host(each.states))
    for each in (one, two):
        each.close()
    return np.concatenate([each.ravel() for each in rows])


@pytest.mark.parametrize(("dtype", "near"), [("f32", 1e-4), ("bf16", 0.2), ("int4", 1e-4)])
def test_a_replayed_pass_computes_what_the_eager_one_does(tiny: Path, dtype: str, near: float) -> None:
    """But for rounding: it reads the cache to a fixed end, which torch's own attention sums in other blocks."""
    recorded, eager = both(lambda: model_of(tiny, dtype=dtype))
    np.testing.assert_allclose(logits_of(recorded), logits_of(eager), atol=near)
    assert set(faults(recorded)) == {None}
    assert len(recorded.programs()) == 2 * len(WIDTHS)


def test_a_draft_that_reads_states_is_replayed_as_it_computes(sighted: Path) -> None:
    recorded, eager = both(lambda: draft_of(sighted))
    np.testing.assert_allclose(logits_of(recorded), logits_of(eager), atol=1e-4)
    assert set(faults(recorded)) == {None}


def test_a_text_may_grow_beyond_what_its_first_programs_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "LEAST_END", 32)
    recorded, eager = both(lambda: model_of(tiny))
    np.testing.assert_allclose(logits_of(recorded), logits_of(eager), atol=1e-4)
    ends = {end for cache in recorded._free for _, end in cache._passes}
    assert ends == {32, 64}
    assert set(faults(recorded)) == {None}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.0, seed=3),
        Sampling(temperature=0.8, top_p=0.9, seed=4),
        Sampling(temperature=1.2, top_k=20, seed=5),
    ],
    ids=str,
)
def test_a_run_with_recorded_programs_is_the_eager_one(trimmed: Pair, sampling: Sampling) -> None:
    """Passes, draws and what a refused draft is followed by."""
    models = [each for each in (trimmed.target, trimmed.draft) if isinstance(each, model.TorchModel)]
    request = Request(prompt="HELLO", chat_template=False, max_tokens=40, k=4, sampling=sampling)

    def rounds(graphs: bool) -> list[Round]:
        for each in models:
            each.graphs, each.widths, each.rows_stay, each._free = graphs, WIDTHS, True, []
        said = [each for each in Session(trimmed).run(request) if isinstance(each, Round)]
        said.sort(key=lambda each: (each.arm, each.index))
        return said

    here, there = rounds(False), rounds(True)
    assert [each.token_ids for each in there] == [each.token_ids for each in here]
    drafted = [[one for each in said for one in each.drafted] for said in (there, here)]
    for one, other in zip(*drafted, strict=True):
        assert (one.id, one.state) == (other.id, other.state)
        assert (one.q, one.p) == pytest.approx((other.q, other.p), abs=2e-4)
    recorded = [program for each in models for program in each.programs()]
    assert all(program._graph is not None for program in recorded)
    assert len(recorded) >= 4  # of both arms, of the draft, of its draw at least


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x * float(x.sum()),
        lambda x: x * x.sum().item(),
        lambda x: x if x.any() else -x,
        lambda x: x + torch.tensor([1.0]),
        lambda x: x + torch.zeros(4).normal_(),
        lambda x: x + x.nonzero().sum(),
        lambda x: x + len(x.tolist()),
    ],
)
def test_what_cannot_be_recorded_runs_all_the_same(look: Any) -> None:
    """And shows that these graphs refuse what CUDA's do."""
    x = torch.ones(4)
    program = programs.Program(lambda: look(x), CPU, [])
    assert program.fault == ILLEGAL
    x += 1
    assert program.run().shape == (4,)


def test_a_result_is_there_after_a_run_only() -> None:
    x = torch.ones(3)
    program: Any = programs.Program(lambda: x * 2, CPU, [])
    assert program._result.isnan().all()
    assert program.run().tolist() == [2, 2, 2]
    x += 1
    assert program.run().tolist() == [4, 4, 4]


def test_a_pass_recorded_after_a_draw_keeps_what_the_draw_is_from(sighted: Path) -> None:
    """Its logits and states, which programs that share its memory may overwrite."""
    recorded, eager = both(lambda: draft_of(sighted))
    sampling = Sampling(temperature=1.0, top_p=0.9)
    seen: list[Any] = []
    for made in (recorded, eager):
        sequence = made.new_sequence((1,))
        sequence.forward(IDS[:20], 1)
        for begin, count in ((20, 1), (21, 3), (24, 7)):  # wider programs come after the first draw
            rows = sequence.score(IDS[begin : begin + count], 1, sampling, RuntimeError, 0.4)
            seen.append([rows.draw(0, 0.4), rows.logits, rows[0], to_host(sequence.states)])
        sequence.close()
    for one, other in zip(seen[:3], seen[3:], strict=True):
        for mine, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-4)
    assert set(faults(recorded)) == {None}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ranks.RankGone("Connection closed")])
def test_no_memory_and_a_lost_rank_are_not_taken_for_a_program_that_cannot_be_recorded(error: Exception) -> None:
    def function() -> None:
        raise error

    with pytest.raises(type(error)):
        programs.Program(function, CPU, [])
