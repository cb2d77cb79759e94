"""The library's own loop, `SpeculativeGenerator`: a reference to compare with, never what a person should trust a text
of."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Generator
from collections.abc import Sequence as Ids
from dataclasses import replace
from typing import Any

from app.backends.neuron.model import NeuronModel
from app.backends.neuron.tnx import TransformersNeuronxPrograms
from app.errors import ModelError, RequestError
from app.record.trace import DraftedToken, FinalToken, FinishReason, Provenance, Round, State


def run_upstream(
    target: NeuronModel,
    draft: NeuronModel,
    prompt: Ids[int],
    *,
    max_tokens: int,
    k: int,
    stop_ids: frozenset[int],
    seed: int = 0,
    acceptor: Any = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Round, None, None]:
    """Run transformers-neuronx's `SpeculativeGenerator` and yield its rounds, once it has ended.

    It drafts by argmax, knows no temperature, top_k or top_p, and emits its first token greedily: a reference for
    speed and for its bias, not for text. acceptor: a `TokenAcceptor`, the stock one where None. The tokens emitted
    are what the loop itself counts; p and q are plain softmax values of the scores it handed to the acceptor; coins
    and alternatives are not known. Its known crashes are met beforehand or ended with a sentence.

    Raises RequestError before anything runs, and ModelError, after the rounds before it, where the loop fails.
    """
    import torch

    if not isinstance(target.programs, TransformersNeuronxPrograms):
        raise RequestError(
            "Upstream's loop is transformers-neuronx's own, and this pair runs by NxD Inference; leave --engine out."
        )
    if k < 2 or k not in target.windows:
        raise RequestError(f"The window k = {k} was not compiled; choose one of {', '.join(map(str, target.windows))}.")
    if target.vocab_size != draft.vocab_size:
        raise RequestError(
            f"Upstream's loop needs equal vocabularies, and the draft's has {draft.vocab_size} ids where "
            "the target's has "
            f"{target.vocab_size}; use this playground's own loop."
        )
    # A window may not cross the end of the context: a bare StopIteration otherwise.
    longest = min(target.n_positions, draft.n_positions) - k + 1
    if len(prompt) >= longest:
        raise RequestError(
            f"The prompt is {len(prompt)} tokens long and upstream's loop takes {longest - 1} at k = {k}; shorten it."
        )
    room = min(max_tokens, longest - len(prompt))
    speculation = importlib.import_module("transformers_neuronx.speculation")
    full: FinishReason = "length" if room == max_tokens else "context"
    recorder = _Recorder(target.module, prompt, k, room, stop_ids, full, clock, stock=acceptor is None)
    failure: ModelError | None = None
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)  # the loop draws from torch's global generator, given back afterwards
        try:
            generator = speculation.SpeculativeGenerator(draft.module, recorder, k, acceptor)
            generator.acceptor = recorder.wrap(generator.acceptor)
            # Stop ids are the recorder's business: the loop crashes on more than one.
            generator.sample(
                torch.tensor([list(prompt)], dtype=torch.int64),
                sequence_length=len(prompt) + room,
                streamer=recorder,
            )
        except _Ended:
            pass
        except ModelError as error:
            failure = error
        except Exception as error:
            failure = _upstream_failed(f"it raised {type(error).__name__}: {error}")
    yield from recorder.rounds
    if failure is not None:
        raise failure


class _Ended(Exception):  # noqa: N818 - not an error: the way out of upstream's loop
    pass


class _Recorder:
    """Stands between upstream's loop and its target, acceptor and streamer, and notes the rounds."""

    def __init__(
        self,
        target: Any,
        prompt: Ids[int],
        k: int,
        room: int,
        stop_ids: frozenset[int],
        full: FinishReason,
        clock: Callable[[], float],
        *,
        stock: bool,
    ) -> None:
        """stock: the acceptor is the library's own."""
        self._stock = stock
        self.rounds: list[Round] = []
        self._target, self._k, self._stop_ids, self._full, self._clock = target, k, stop_ids, full, clock
        self._room, self._prompt_pending = room, True
        self._prefill_scores: Any = None
        self._begin = self._verify_begin = self._verify_end = self._judge_end = clock()

    # as the target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._prefill_scores = self._timed(self._target, *args, **kwargs)
        return self._prefill_scores

    def speculative_forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._timed(self._target.speculative_forward, *args, **kwargs)

    def _timed(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._verify_begin = self._clock()
        result = function(*args, **kwargs)
        self._verify_end = self._clock()
        return result

    # as the streamer: the prompt, the first token, then a row of every round (noted by the acceptor already)

    def put(self, token_ids: Any) -> None:
        if self._prompt_pending:
            self._prompt_pending = False
        elif not self.rounds:
            self._judge_end = self._clock()
            probs = _softmax(self._prefill_scores)[0]
            first = int(token_ids.flatten()[0])
            self._note((), FinalToken(first, "target", float(probs[first]), ()))

    def end(self) -> None:
        pass

    # as the acceptor

    def wrap(self, acceptor: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
        import torch

        def judge(draft_ids: Any, draft_scores: Any, target_scores: Any) -> Any:
            drafted = draft_ids[0].tolist()
            row = acceptor(draft_ids, draft_scores, target_scores).reshape(-1)
            said = row.tolist()
            # The loop takes the acceptor's row zero-padded to k; a shorter one would end it, a longer one would be cut.
            row = torch.nn.functional.pad(row.to(torch.int64), (0, max(0, self._k - len(said)))).reshape(1, -1)
            self._judge_end = self._clock()
            accepted, final = self._meant(said, drafted)
            draft_probs, target_probs = _softmax(draft_scores[0]), _softmax(target_scores[0])
            self._judged(accepted, final, drafted, draft_probs, target_probs)
            return row

        return judge

    def _meant(self, said: list[Any], drafted: list[int]) -> tuple[int, int | None]:
        """How many drafts a row accepts, and the token of the target's it ends with, if it has one.

        The loop counts the tokens that are not 0: it takes a 0 for padding, drops it, and goes on from what is before
        it. Raises ModelError where that is not what the row says, or the row is none.
        """
        emitted = sum(token != 0 for token in said)
        accepted = next(
            (i for i, (token, draft) in enumerate(zip(said, drafted, strict=False)) if token != draft), None
        )
        if accepted is None:
            accepted = min(len(said), len(drafted))
        if len(said) > self._k:
            raise _upstream_failed(f"its acceptor answered with {len(said)} tokens for a window of {self._k}")
        if not all(isinstance(token, int) for token in said):
            raise _upstream_failed(f"its acceptor answered with {said}, which are no ids")
        if not said:
            raise _upstream_failed("its acceptor answered with no token")
        # A row that is not padded says itself how many it holds. The stock acceptor always adds a token to the drafts.
        meant = len(said) if len(said) < self._k else emitted
        if self._stock and meant <= accepted and meant < self._k:
            meant = accepted + 1
        if emitted < meant or emitted == 0 or any(token == 0 for token in said[:emitted]):
            raise _upstream_failed("its acceptor emitted token 0, which it takes for padding")
        if emitted > accepted + 1:
            raise _upstream_failed(
                f"its acceptor answered with {said}, which goes on after replacing the draft {drafted[accepted]}"
            )
        return (emitted, None) if emitted <= accepted else (accepted, said[accepted])

    def _judged(
        self, accepted: int, final: int | None, drafted: list[int], draft_probs: Any, target_probs: Any
    ) -> None:
        tokens = []
        for i, token in enumerate(drafted):
            rejected = i == accepted and final is not None
            state: State = "accepted" if i < accepted else "rejected" if rejected else "discarded"
            q, p = float(draft_probs[i, token]), float(target_probs[i, token])
            tokens.append(DraftedToken(token, state, q, p, None, None, (), ()))
        provenance: Provenance = "bonus" if accepted == len(drafted) else "corrected"
        own = None if final is None else FinalToken(final, provenance, float(target_probs[accepted, final]), ())
        self._note(tuple(tokens), own)

    def _note(self, drafted: tuple[DraftedToken, ...], final: FinalToken | None) -> None:
        """Append the round, cut where the answer ends, and leave the loop there."""
        emitted = [token.id for token in drafted if token.state == "accepted"]
        accepted = len(emitted)
        if final is not None:
            emitted.append(final.id)
        stop = next((i for i, token in enumerate(emitted) if token in self._stop_ids), None)
        keep = min(len(emitted) if stop is None else stop + 1, self._room)
        cut = keep <= accepted and keep < len(emitted)
        if cut:
            drafted = tuple(t if i < keep else replace(t, state="discarded") for i, t in enumerate(drafted))
        self._room -= keep
        finish: FinishReason | None = (
            "stop" if emitted[keep - 1] in self._stop_ids else self._full if self._room == 0 else None
        )
        self.rounds.append(
            Round(
                index=len(self.rounds),
                arm="speculative",
                drafted=drafted,
                final=None if cut else final,
                draft_seconds=self._verify_begin - self._begin,
                verify_seconds=self._verify_end - self._verify_begin,
                host_seconds=self._judge_end - self._verify_end,
                finish_reason=finish,
            )
        )
        self._begin = self._clock()  # what was noted above is not the loop's time
        if finish is not None:
            raise _Ended


def _softmax(scores: Any) -> Any:
    import torch

    return torch.softmax(scores.to(torch.float64), dim=-1)


def _upstream_failed(what: str) -> ModelError:
    return ModelError(f"Upstream's loop cannot go on: {what}; use this playground's own loop.")
