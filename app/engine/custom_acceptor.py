"""Acceptors of the user's own: loaded by name, guarded, and those of transformers_neuronx adapted."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.engine.acceptance import Acceptor, Judgement, Verdict, from_target
from app.engine.noise import Purpose, RoundNoise
from app.engine.rows import check_shapes
from app.engine.sampling import Probs
from app.engine.scored import DraftProbs, TargetProbs
from app.errors import ModelError, RequestError

T = TypeVar("T")
Rule = Callable[[Sequence[int], Probs, Probs, RoundNoise], Verdict]


def load_custom(spec: str) -> Acceptor:
    """The acceptor at "package.module:Name": importing it runs the user's code, so it is for the command line only.

    Name is a callable of the protocol of `app.acceptance` (draft_ids, draft_probs, target_probs, noise) -> Verdict: a
    function, an object, or a class made without arguments; or a subclass of transformers_neuronx's TokenAcceptor,
    unchanged. It may have `lossless`, `same_text`, `propose` and `total_variation` as `Acceptor` has. Raises
    RequestError where it cannot be loaded; the acceptor raises ModelError where it does not keep to the protocol.
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise RequestError(f"The acceptor {spec!r} is not of the form package.module:Name; write it so.")
    try:
        named: Any = operator.attrgetter(name)(importlib.import_module(module))
        rule: Any = named() if inspect.isclass(named) else named
        arguments = _count_arguments(rule)
    except Exception as error:
        raise RequestError(
            f"The acceptor {spec} cannot be loaded ({type(error).__name__}: {error}); check the module's name, that it "
            "can be imported from here, and that the class takes no arguments."
        ) from error
    if arguments == 3:
        return _Custom(spec, rule, _FromUpstream(rule))
    if arguments == 4:
        return _Custom(spec, rule, rule)
    raise RequestError(
        f"The acceptor {spec} takes {arguments} arguments; it should take draft_ids, draft_probs, "
        "target_probs and noise, "
        "or be a TokenAcceptor of transformers_neuronx."
    )


def _count_arguments(rule: Any) -> int:
    """Positional arguments a call must give."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(rule).parameters.values()
    return sum(parameter.kind in kinds and parameter.default is parameter.empty for parameter in parameters)


class _Custom(Acceptor):
    """The guard around a user's rule (`declared`): whatever goes wrong inside is a sentence naming it and the fault.

    It is given copies of the draft's rows, to do with as it likes: the drafter uses their memory again.
    """

    def __init__(self, spec: str, declared: Any, rule: Rule) -> None:
        self.name = spec
        self.description = (inspect.getdoc(declared) or "An acceptor of your own.").splitlines()[0]
        self.lossless = getattr(declared, "lossless", False) is True
        self.same_text = getattr(declared, "same_text", False) is True
        self.declared = declared
        self._rule = rule

    @property
    def draws(self) -> bool:
        return not hasattr(self.declared, "propose")

    def propose(self, draft_probs: Probs, noise: RoundNoise, offset: int) -> int:
        if not hasattr(self.declared, "propose"):
            return super().propose(draft_probs, noise, offset)
        token = self._guarded(lambda: operator.index(self.declared.propose(draft_probs.copy(), noise, offset)))
        if not 0 <= token < draft_probs.size:
            raise self._fault(f"proposed token {token} of a vocabulary of {draft_probs.size}")
        return token

    def __call__(
        self, draft_ids: Sequence[int], draft_probs: DraftProbs, target_probs: TargetProbs, noise: RoundNoise
    ) -> Verdict:
        check_shapes(draft_ids, draft_probs, target_probs)
        g, size = len(draft_ids), target_probs.shape[1]
        rows = target_probs if isinstance(target_probs, np.ndarray) else target_probs.all()
        verdict = self._guarded(lambda: self._rule(draft_ids, np.array(draft_probs), rows, noise))
        if not isinstance(verdict, Verdict):
            raise self._fault(f"returned {type(verdict).__name__}, not a Verdict")
        kept, final = self._guarded(lambda: (operator.index(verdict.num_accepted), operator.index(verdict.final_id)))
        if not 0 <= kept <= g:
            raise self._fault(f"kept {kept} drafts of {g}")
        if not 0 <= final < size:
            raise self._fault(f"chose token {final} of a vocabulary of {size}")
        judgements = verdict.judgements or (Judgement(),) * min(kept + 1, g)
        if not kept <= len(judgements) <= g or not all(isinstance(one, Judgement) for one in judgements):
            raise self._fault(f"gave {len(judgements)} judgements for {kept} kept drafts of {g}")
        residual = verdict.residual
        if residual is not None and np.shape(residual) != (size,):
            raise self._fault(f"gave a residual of shape {np.shape(residual)}, not ({size},)")
        return Verdict(kept, final, tuple(judgements), residual)

    def total_variation(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs) -> float | None:
        if not hasattr(self.declared, "total_variation"):
            return None
        return self._guarded(lambda: float(self.declared.total_variation(draft_ids, draft_probs, target_probs)))

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            raise self._fault(f"failed ({type(error).__name__}: {error})") from error

    def _fault(self, fault: str) -> ModelError:
        return ModelError(f"The acceptor {self.name} {fault}; correct it, or choose another acceptor.")


class _FromUpstream:
    """A TokenAcceptor of transformers_neuronx as a rule of ours.

    Upstream hands it draft_ids int64 [1, g] and logits [1, g, V] and [1, g + 1, V], and takes int64 [1, g + 1] back:
    the kept drafts, one more token, zeros. The logarithms of the warped probabilities are logits with that softmax, so
    it judges what was really drawn. The count is not in the answer: it is how far the answer repeats the drafts, which
    tells a token 0 from the padding too. (Upstream counts what is not 0, and loses such a token.) torch's random state
    is seeded from the round's noise, and put back.
    """

    def __init__(self, token_acceptor: Any) -> None:
        try:
            self._torch: Any = importlib.import_module("torch")
        except ImportError as error:
            raise RequestError("An acceptor of transformers_neuronx needs PyTorch; install torch.") from error
        self._token_acceptor = token_acceptor

    def __call__(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs, noise: RoundNoise) -> Verdict:
        g = len(draft_ids)
        if g == 0:
            return from_target(0, target_probs, (), noise)
        torch = self._torch
        size = max(draft_probs.shape[1], target_probs.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(noise.uniform(0, Purpose.ACCEPT) * 2**53))
            answer = self._token_acceptor(
                torch.tensor([list(draft_ids)], dtype=torch.int64),
                torch.from_numpy(self._scores(draft_probs, size)),
                torch.from_numpy(self._scores(target_probs, size)),
            )
        if tuple(answer.shape) != (1, g + 1):
            raise ValueError(f"it returned the shape {list(answer.shape)}, not {[1, g + 1]}")
        if answer.dtype.is_floating_point:
            raise ValueError(f"it returned {answer.dtype}, not int64 ids")
        tokens: list[int] = answer[0].tolist()
        kept = next((i for i, (said, drafted) in enumerate(zip(tokens, draft_ids, strict=False)) if said != drafted), g)
        if any(tokens[kept + 1 :]):
            raise ValueError(f"it returned {tokens}, which goes on after replacing the draft {draft_ids[kept]}")
        return Verdict(kept, tokens[kept])

    @staticmethod
    def _scores(probs: Probs, size: int) -> NDArray[np.float32]:
        """Logits [1, n, size] with these probabilities [n, V]."""
        scores = np.full((1, probs.shape[0], size), -np.inf, np.float32)
        np.log(probs, out=scores[0, :, : probs.shape[1]], where=probs > 0)
        return scores
