"""A user's own acceptor: how it is loaded, and what is said when it fails."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.acceptance import ACCEPTORS, Acceptor, Judgement, Verdict, find
from app.engine.custom_acceptor import load_custom
from app.engine.noise import Noise, RoundNoise
from app.errors import ModelError, RequestError

Rows = NDArray[np.float32]
LOSSLESS = [name for name, acceptor in ACCEPTORS.items() if acceptor.lossless]
NONE = np.zeros((0, 3), np.float32)


def rows(*values: list[float]) -> Rows:
    return np.array(values, np.float32)


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
    acceptor = load_custom("tests.test_custom_acceptor:keep_everything")
    assert (acceptor.name, acceptor.description) == ("tests.test_custom_acceptor:keep_everything", "Keep every draft.")
    assert not acceptor.lossless
    assert judge(acceptor) == Verdict(2, 0, (Judgement(), Judgement()))
    assert acceptor.total_variation(*WINDOW) is None
    assert acceptor.propose(WINDOW[1][0], Noise(0).at(0), 0) == 1


def test_a_class_is_an_acceptor_with_what_it_declares() -> None:
    greedy = load_custom("tests.test_custom_acceptor:Greedy")
    assert judge(greedy) == Verdict(1, 1, (Judgement(), Judgement()))
    assert greedy.total_variation(*WINDOW) == 0.25
    claims = load_custom("tests.test_custom_acceptor:Claims")
    assert (claims.lossless, claims.same_text) == (True, True)
    assert claims.propose(np.array([0.4, 0.6], np.float32), Noise(0).at(0), 0) == 1
    assert judge(claims) == Verdict(0, 1, (Judgement(),))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("no_colon", "not of the form package.module:Name"),
        (":Name", "not of the form package.module:Name"),
        ("no.such.module:Name", "No module named 'no'"),
        ("tests.test_custom_acceptor:Nothing", "no attribute 'Nothing'"),
        ("tests.test_custom_acceptor:NeedsAnArgument", "temperature"),
        ("tests.test_custom_acceptor:WINDOW", "not a callable object"),
        ("tests.test_custom_acceptor:rows", "takes 0 arguments"),
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


@pytest.mark.slow
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
