"""Every acceptor's verdicts: their shapes, their edges, and what is said when a user's own acceptor fails."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.acceptance import ACCEPTORS, Acceptor, Judgement, Verdict, find
from app.engine.custom_acceptor import load_custom
from app.engine.noise import Noise, Purpose, RoundNoise
from app.errors import ModelError, RequestError

Rows = NDArray[np.float32]
LOSSLESS = [name for name, acceptor in ACCEPTORS.items() if acceptor.lossless]
NONE = np.zeros((0, 3), np.float32)


def rows(*values: list[float]) -> Rows:
    return np.array(values, np.float32)


# --- the registry ---


def test_find_gives_every_acceptor_with_its_promises() -> None:
    assert LOSSLESS == ["rejection", "exact", "block", "coupled"]
    assert [name for name, each in ACCEPTORS.items() if each.same_text] == ["exact", "coupled"]
    for name, acceptor in ACCEPTORS.items():
        assert find(name) is acceptor
        assert acceptor.description.endswith(".")
        assert "\n" not in acceptor.description
        assert len(acceptor.description) <= 120


@pytest.mark.parametrize("name", ["greedy", "", "os:system", "app.engine.acceptance:Rejection"])
def test_find_lists_the_names_and_loads_no_code(name: str) -> None:
    with pytest.raises(RequestError, match="rejection, exact, block, coupled, typical, lenient, upstream"):
        find(name)


# --- verdicts ---


def some_rows(rng: np.random.Generator, count: int, size: int, zeros: float, peaked: float) -> Rows:
    weights = rng.random((count, size)) ** peaked
    weights[rng.random((count, size)) < zeros] = 0
    weights[np.arange(count), rng.integers(size, size=count)] += 0.1
    some: Rows = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return some


@settings(max_examples=250, deadline=None)
@given(
    name=st.sampled_from(list(ACCEPTORS)),
    seed=st.integers(0, 2**32),
    g=st.integers(0, 15),
    size=st.integers(2, 12),
    wider=st.integers(-1, 3),
    zeros=st.sampled_from([0.0, 0.5, 0.9]),
    peaked=st.sampled_from([0.5, 4.0, 40.0]),
    proposed=st.booleans(),
)
def test_verdicts_are_well_formed(
    name: str, seed: int, g: int, size: int, wider: int, zeros: float, peaked: float, proposed: bool
) -> None:
    """Whatever the rows: trimmed, padded, one-hot; and ids the draft drew, or any ids at all."""
    acceptor, rng, noise = ACCEPTORS[name], np.random.default_rng(seed), Noise(seed).at(seed % 100)
    draft_probs = some_rows(rng, g, size + wider, zeros, peaked)
    target_probs = some_rows(rng, g + 1, size, zeros, peaked)
    ids = [acceptor.propose(q, noise, i) if proposed else int(rng.integers(q.size)) for i, q in enumerate(draft_probs)]
    if proposed:
        assert all(draft_probs[i, token] > 0 for i, token in enumerate(ids))

    verdict = acceptor(ids, draft_probs, target_probs, noise)
    kept = verdict.num_accepted
    assert 0 <= kept <= g
    assert all(token < size and target_probs[i, token] > 0 for i, token in enumerate(ids[:kept]))
    assert target_probs[kept, verdict.final_id] > 0
    assert len(verdict.judgements) == (g if name == "block" else min(kept + 1, g))
    for i, judgement in enumerate(verdict.judgements):
        assert (judgement.u is None) == (judgement.threshold is None) == (name in ("exact", "coupled", "typical"))
        if judgement.u is not None and judgement.threshold is not None:
            assert 0 <= judgement.u < 1
            assert 0 <= judgement.threshold <= 1
            if name != "block":
                assert (judgement.u < judgement.threshold) == (i < kept)
    if verdict.residual is None:
        assert kept == g or name in ("exact", "coupled")
    else:
        assert kept < g
        assert verdict.residual.shape == (size,)
        assert verdict.residual.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
        assert verdict.residual[verdict.final_id] > 0
    if kept < g and name in ("rejection", "exact", "coupled"):
        assert verdict.final_id != ids[kept]  # it would have been kept
    assert acceptor(ids, draft_probs, target_probs, noise) == verdict

    distance = acceptor.total_variation(ids, draft_probs, target_probs)
    assert distance is not None
    if acceptor.lossless:
        assert 0 <= distance < 1e-6
    assert 0 <= distance <= 1 + 1e-6


@pytest.mark.parametrize("name", list(ACCEPTORS))
def test_at_temperature_0_every_acceptor_says_what_the_target_says(name: str) -> None:
    one_hot = np.eye(4, dtype=np.float32)
    verdict = find(name)([2, 0, 1], one_hot[[2, 0, 1]], one_hot[[2, 0, 3, 1]], Noise(1).at(5))
    assert (verdict.num_accepted, verdict.final_id) == (2, 3)
    verdict = find(name)([2, 0, 1], one_hot[[2, 0, 1]], one_hot[[2, 0, 1, 0]], Noise(1).at(5))
    assert (verdict.num_accepted, verdict.final_id, verdict.residual) == (3, 0, None)


@pytest.mark.parametrize("name", list(ACCEPTORS))
def test_the_target_alone_draws_from_its_row(name: str) -> None:
    p = rows([0.5, 0, 0.3, 0.2])
    draws = [find(name)([], NONE, p, Noise(seed).at(9)).final_id for seed in range(400)]
    assert np.bincount(draws, minlength=4) / 400 == pytest.approx(p[0], abs=0.08)
    if name != "coupled":  # the same draw for all, at the position's own
        assert draws == [find("rejection")([], NONE, p, Noise(seed).at(9)).final_id for seed in range(400)]


def test_rejection_on_three_tokens() -> None:
    p, q = rows([0.5, 0.2, 0.3], [0.1, 0.1, 0.8]), rows([0.2, 0.6, 0.2])
    seen = set()
    for seed in range(60):
        verdict = find("rejection")([1], q, p, Noise(seed).at(0))
        assert verdict.judgements[0].threshold == pytest.approx(0.2 / 0.6)
        seen.add(verdict.num_accepted)
        if verdict.num_accepted == 0:
            assert verdict.residual == pytest.approx([0.75, 0, 0.25])
    assert seen == {0, 1}
    assert find("rejection")([0], q, p, Noise(0).at(0)).judgements[0].threshold == 1


def test_a_token_the_draft_could_not_say_is_kept_only_where_the_target_can() -> None:
    p, q = rows([0, 1, 0], [1, 0, 0]), rows([1, 0, 0])
    assert find("rejection")([1], q, p, Noise(0).at(0)).num_accepted == 1
    assert find("rejection")([2], q, p, Noise(0).at(0)).num_accepted == 0


def test_a_draft_refused_by_rounding_alone_is_replaced_by_the_targets_own() -> None:
    p, q = rows([0.5, 0.5], [0.5, 0.5]), rows([0.5, 0.5])
    p[0, 0] = np.nextafter(np.float32(0.5), np.float32(0))

    class Late(RoundNoise):
        def uniform(self, offset: int, purpose: Purpose) -> float:
            return 1 - 2.0**-53

    verdict = find("rejection")([0], q, p, Late(Noise(0), 0))
    assert (verdict.num_accepted, verdict.final_id) == (0, 1)
    assert verdict.residual is p[0] or np.array_equal(verdict.residual, p[0])  # type: ignore[arg-type]


def test_typical_keeps_by_the_entropy_of_the_row() -> None:
    flat, sharp = [0.05] * 20, [0.93] + [0.07 / 19] * 19
    q = rows(flat)
    assert find("typical")([7], q, rows(flat, flat), Noise(0).at(0)).num_accepted == 1  # 0.05 > 0.3 / 20
    assert find("typical")([7], q, rows(sharp, flat), Noise(0).at(0)).num_accepted == 0
    assert find("typical")([0], q, rows(sharp, flat), Noise(0).at(0)).num_accepted == 1


def test_lenient_at_most_doubles_a_token() -> None:
    p, q = rows([0.2, 0.8], [1, 0]), rows([0.6, 0.4])
    assert find("lenient")([0], q, p, Noise(0).at(0)).judgements[0].threshold == pytest.approx(0.2 / 0.3)
    # out(0) = 0.6 * 2/3 = 0.4, twice p
    assert find("lenient").total_variation([0], q, p) == pytest.approx(0.2, abs=1e-6)


def test_upstream_drafts_its_argmax_whatever_the_noise() -> None:
    q = np.array([0.4, 0.6], np.float32)
    assert {find("upstream").propose(q, Noise(seed).at(0), 0) for seed in range(20)} == {1}
    # p = q: everything is kept, so the argmax is all it says
    assert find("upstream").total_variation([1], q[None], np.stack([q, q])) == pytest.approx(0.4)


def test_coupled_agrees_where_the_distributions_do() -> None:
    q = np.random.default_rng(0).dirichlet(np.ones(50)).astype(np.float32)
    coupled = find("coupled")
    for seed in range(50):
        noise = Noise(seed).at(3)
        ids = [coupled.propose(q, noise, i) for i in range(4)]
        assert coupled(ids, np.stack([q] * 4), np.stack([q] * 5), noise).num_accepted == 4


# --- a user's own ---


def keep_everything(draft_ids: list[int], draft_probs: Rows, target_probs: Rows, noise: RoundNoise) -> Verdict:
    """Keep every draft.

    More of the docstring.
    """
    return Verdict(len(draft_ids), int(target_probs[-1].argmax()))


class Greedy(Acceptor):
    """Deterministic: keep while the draft is the target's argmax."""

    lossless = False

    def __call__(self, draft_ids, draft_probs, target_probs, noise):  # type: ignore[no-untyped-def]
        best = target_probs.argmax(1)
        kept = next((i for i, token in enumerate(draft_ids) if token != best[i]), len(draft_ids))
        return Verdict(kept, int(best[kept]), (Judgement(),) * min(kept + 1, len(draft_ids)))

    def total_variation(self, draft_ids, draft_probs, target_probs):  # type: ignore[no-untyped-def]
        return 0.25


class Claims:
    """Has every declaration."""

    lossless = True
    same_text = True

    def propose(self, draft_probs: Rows, noise: RoundNoise, offset: int) -> int:
        return int(draft_probs.argmax())

    def __call__(self, draft_ids: list[int], draft_probs: Rows, target_probs: Rows, noise: RoundNoise) -> Verdict:
        return Verdict(0, int(target_probs[0].argmax()))


class NeedsAnArgument:
    def __init__(self, temperature: float) -> None:
        self.temperature = temperature


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("someones_acceptors")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


WINDOW = ([1, 2], rows([0, 1, 0], [0, 0, 1]), rows([0, 1, 0], [0.2, 0.5, 0.3], [1, 0, 0]))


def judge(acceptor: Acceptor) -> Verdict:
    return acceptor(*WINDOW, Noise(0).at(0))


def test_a_function_is_an_acceptor() -> None:
    acceptor = load_custom("tests.test_acceptance:keep_everything")
    assert (acceptor.name, acceptor.description) == ("tests.test_acceptance:keep_everything", "Keep every draft.")
    assert not acceptor.lossless
    assert judge(acceptor) == Verdict(2, 0, (Judgement(), Judgement()))
    assert acceptor.total_variation(*WINDOW) is None
    assert acceptor.propose(WINDOW[1][0], Noise(0).at(0), 0) == 1


def test_a_class_is_an_acceptor_with_what_it_declares() -> None:
    greedy = load_custom("tests.test_acceptance:Greedy")
    assert judge(greedy) == Verdict(1, 1, (Judgement(), Judgement()))
    assert greedy.total_variation(*WINDOW) == 0.25
    claims = load_custom("tests.test_acceptance:Claims")
    assert (claims.lossless, claims.same_text) == (True, True)
    assert claims.propose(np.array([0.4, 0.6], np.float32), Noise(0).at(0), 0) == 1
    assert judge(claims) == Verdict(0, 1, (Judgement(),))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("no_colon", "not of the form package.module:Name"),
        (":Name", "not of the form package.module:Name"),
        ("no.such.module:Name", "No module named 'no'"),
        ("tests.test_acceptance:Nothing", "no attribute 'Nothing'"),
        ("tests.test_acceptance:NeedsAnArgument", "temperature"),
        ("tests.test_acceptance:WINDOW", "not a callable object"),
        ("tests.test_acceptance:rows", "takes 0 arguments"),
    ],
)
def test_what_cannot_be_loaded_is_named(spec: str, named: str) -> None:
    with pytest.raises(RequestError, match=named) as caught:
        load_custom(spec)
    assert spec in str(caught.value)


FAULTS = {
    "returned NoneType, not a Verdict": None,
    "returned tuple, not a Verdict": (1, 2),
    "kept 3 drafts of 2": Verdict(3, 0),
    "kept -1 drafts of 2": Verdict(-1, 0),
    "chose token 3 of a vocabulary of 3": Verdict(1, 3),
    "chose token -1 of a vocabulary of 3": Verdict(1, -1),
    "gave 1 judgements for 2 kept drafts of 2": Verdict(2, 0, (Judgement(),)),
    "gave 3 judgements for 1 kept drafts of 2": Verdict(1, 0, (Judgement(),) * 3),
    "gave a residual of shape (2,), not (3,)": Verdict(1, 0, (), np.ones(2, np.float32)),
    "failed (TypeError: 'float' object cannot be interpreted as an integer)": Verdict(1.5, 0),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_verdict_is_a_sentence(fault: str, module: types.ModuleType) -> None:
    vars(module)["Wrong"] = lambda draft_ids, draft_probs, target_probs, noise: FAULTS[fault]
    with pytest.raises(ModelError) as caught:
        judge(load_custom("someones_acceptors:Wrong"))
    assert str(caught.value) == (
        f"The acceptor someones_acceptors:Wrong {fault}; correct it, or choose another acceptor."
    )


def test_an_exception_inside_is_a_sentence(module: types.ModuleType) -> None:
    class Broken(Greedy):
        def propose(self, draft_probs, noise, offset):  # type: ignore[no-untyped-def]
            return draft_probs.size

        def __call__(self, draft_ids, draft_probs, target_probs, noise):  # type: ignore[no-untyped-def]
            raise IndexError("no such row")

        def total_variation(self, draft_ids, draft_probs, target_probs):  # type: ignore[no-untyped-def]
            return "far"

    vars(module)["Broken"] = Broken
    acceptor = load_custom("someones_acceptors:Broken")
    with pytest.raises(ModelError, match=r"someones_acceptors:Broken failed \(IndexError: no such row\); correct it"):
        judge(acceptor)
    with pytest.raises(ModelError, match="proposed token 3 of a vocabulary of 3"):
        acceptor.propose(WINDOW[1][0], Noise(0).at(0), 0)
    with pytest.raises(ModelError, match=r"failed \(ValueError: could not convert"):
        acceptor.total_variation(*WINDOW)


# --- one written for transformers_neuronx ---


@pytest.fixture
def upstreams(module: types.ModuleType) -> types.ModuleType:
    """Subclasses of a TokenAcceptor with upstream's signature, as a user of transformers_neuronx has them."""
    torch = pytest.importorskip(
        "torch", reason="upstream acceptors are torch code; torch is not in the default install"
    )

    class TokenAcceptor:
        def __call__(self, draft_ids, draft_scores, target_scores):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    class WhileArgmax(TokenAcceptor):
        """Keeps drafts while they are the target's argmax."""

        def __call__(self, draft_ids, draft_scores, target_scores):  # type: ignore[no-untyped-def]
            assert draft_ids.dtype == torch.int64
            assert draft_scores.shape == (1, draft_ids.shape[1], target_scores.shape[2])
            best = target_scores.argmax(-1)
            agree = (best[:, :-1] == draft_ids).long().cumprod(-1).sum()
            return torch.where(torch.arange(best.shape[1]) <= agree, best, 0)

    class Probabilistic(TokenAcceptor):
        """The rule of Chen et al., one draft at a time, with torch's own dice."""

        def __call__(self, draft_ids, draft_scores, target_scores):  # type: ignore[no-untyped-def]
            q, p = draft_scores.softmax(-1)[0], target_scores.softmax(-1)[0]
            answer = torch.zeros(1, p.shape[0], dtype=torch.int64)
            for i, token in enumerate(draft_ids[0]):
                if torch.rand(()) >= p[i, token] / q[i, token]:
                    answer[0, i] = torch.multinomial((p[i] - q[i]).clamp(min=0), 1)
                    return answer
                answer[0, i] = token
            answer[0, -1] = torch.multinomial(p[-1], 1)
            return answer

    class Short(TokenAcceptor):
        def __call__(self, draft_ids, draft_scores, target_scores):  # type: ignore[no-untyped-def]
            return draft_ids

    class Floats(TokenAcceptor):
        def __call__(self, draft_ids, draft_scores, target_scores):  # type: ignore[no-untyped-def]
            return torch.zeros(1, target_scores.shape[1])

    class GoesOn(TokenAcceptor):
        def __call__(self, draft_ids, draft_scores, target_scores):  # type: ignore[no-untyped-def]
            return torch.tensor([[2, 2, 1]])

    vars(module).update(
        WhileArgmax=WhileArgmax, Probabilistic=Probabilistic, Short=Short, Floats=Floats, GoesOn=GoesOn, torch=torch
    )
    return module


def test_an_upstream_acceptor_loads_unchanged(upstreams: types.ModuleType) -> None:
    acceptor = load_custom("someones_acceptors:WhileArgmax")
    assert acceptor.description == "Keeps drafts while they are the target's argmax."
    one_hot = np.eye(4, dtype=np.float32)
    for target in ([2, 0, 3, 1], [2, 0, 1, 0], [0, 0, 1, 0], [2, 0, 0, 0], [2, 3, 1, 1]):
        verdict = acceptor([2, 0, 1], one_hot[[2, 0, 1]], one_hot[target], Noise(0).at(0))
        expected = find("exact")([2, 0, 1], one_hot[[2, 0, 1]], one_hot[target], Noise(0).at(0))
        assert (verdict.num_accepted, verdict.final_id) == (expected.num_accepted, expected.final_id)
    assert acceptor([], NONE, rows([0, 1, 0]), Noise(0).at(0)).final_id == 1
    wider = np.eye(6, dtype=np.float32)[[2, 5]]
    assert acceptor([2, 5], wider, one_hot[[2, 3, 0]], Noise(0).at(0)).final_id == 3


def test_an_upstream_acceptor_keeps_token_0_apart_from_its_padding(upstreams: types.ModuleType) -> None:
    """Upstream's own loop counts what is not 0, and loses these."""
    acceptor = load_custom("someones_acceptors:WhileArgmax")
    one_hot = np.eye(3, dtype=np.float32)
    for drafts, target, kept, final in [
        ([0, 0], [0, 0, 0], 2, 0),
        ([1, 2], [1, 0, 0], 1, 0),
        ([1, 2], [0, 0, 0], 0, 0),
        ([0, 2], [0, 1, 0], 1, 1),
        ([1, 0], [1, 0, 2], 2, 2),
    ]:
        verdict = acceptor(drafts, one_hot[drafts], one_hot[target], Noise(0).at(0))
        assert (verdict.num_accepted, verdict.final_id) == (kept, final)


def test_an_upstream_acceptor_with_dice_is_lossless_here_and_replayable(upstreams: types.ModuleType) -> None:
    torch = upstreams.torch
    acceptor = load_custom("someones_acceptors:Probabilistic")
    p, q = rows([0.5, 0.2, 0.3, 0], [0.25, 0.25, 0.25, 0.25]), rows([0.1, 0.6, 0.2, 0.1])
    state = torch.get_rng_state()

    def first(seed: int) -> int:
        noise = Noise(seed).at(4)
        ids = [acceptor.propose(q[0], noise, 0)]
        verdict = acceptor(ids, q, p, noise)
        return ids[0] if verdict.num_accepted else verdict.final_id

    draws = [first(seed) for seed in range(1500)]
    assert torch.equal(torch.get_rng_state(), state)
    assert draws[:50] == [first(seed) for seed in range(50)]
    assert np.bincount(draws, minlength=4) / 1500 == pytest.approx(p[0], abs=0.045)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Short", r"it returned the shape \[1, 2\], not \[1, 3\]"),
        ("Floats", "it returned torch.float32, not int64 ids"),
        ("GoesOn", r"it returned \[2, 2, 1\], which goes on after replacing the draft 1"),
    ],
)
def test_a_wrong_answer_of_an_upstream_acceptor_is_a_sentence(
    name: str, fault: str, upstreams: types.ModuleType
) -> None:
    with pytest.raises(ModelError, match=f"someones_acceptors:{name} failed [(]ValueError: {fault}"):
        judge(load_custom(f"someones_acceptors:{name}"))
