"""What a request asks of a pair: refused in a sentence where it cannot work, else the prompt's token ids. No work is
done."""

from __future__ import annotations

from app.engine.acceptance import ACCEPTORS, Rejection, Upstream
from app.engine.pair import Pair, Promised
from app.errors import RequestError
from app.record import conversation
from app.record.limits import (
    AUTO,
    DRAFTERS,
    MAX_K,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    MIN_K,
)
from app.record.trace import Request, Sampling


def drafters(pair: Pair) -> tuple[str, ...]:
    """The drafters this pair can have, its default first."""
    return ("lookup",) if pair.draft is None else DRAFTERS


def auto_windows(pair: Pair) -> tuple[int, ...]:
    """The windows k = auto chooses among, beside not drafting at all."""
    return tuple(k for k in pair.target.windows or range(MIN_K, MAX_K + 1) if k >= MIN_K)


def n_positions(pair: Pair, request: Request) -> int:
    """The longest context of the run: both arms end at the same length, so the shorter model decides."""
    target, draft = pair.target, pair.draft
    if draft is None or request.arms == "target" or request.drafter == "lookup":
        return target.n_positions
    return min(target.n_positions, draft.n_positions)


def validate(pair: Pair, request: Request, upstream: bool = False) -> None:
    """Raise RequestError unless the pair can run the request. upstream: by the engine's own loop."""
    validate_unloaded(pair.promised, request, upstream)
    if request.drafter not in drafters(pair) and request.arms != "target":
        raise RequestError(
            "This pair has no draft model; choose the drafter lookup, which needs none, or the target arm alone."
        )


def validate_unloaded(promised: Promised, request: Request, upstream: bool = False) -> None:
    """Raise RequestError for what cannot work, as far as it can be known before a pair is loaded, which may take
    minutes."""
    validate_sampling(request.sampling)
    contents = (request.prompt, request.system, *(message.get("content", "") for message in request.messages))
    if any("\ud800" <= character <= "\udfff" for text in contents if not text.isascii() for character in text):
        raise RequestError("The prompt holds half a character, as text that is not UTF-8 does; write it in UTF-8.")
    if request.arms not in ("both", "target", "speculative"):
        raise RequestError(f"There is no arm {request.arms!r}; choose both, target or speculative.")
    if request.drafter not in DRAFTERS:
        raise RequestError(f"There is no drafter {request.drafter!r}; choose one of {', '.join(DRAFTERS)}.")
    _validate_window(promised.windows, request, upstream)
    if not 1 <= request.max_tokens <= MAX_TOKENS:
        raise RequestError(f"max_tokens is {request.max_tokens}; choose 1 to {MAX_TOKENS}.")
    if upstream:
        _validate_upstream(promised, request)
    if not request.messages and not request.prompt.strip():
        raise RequestError("The prompt is empty; type something for the model to answer.")
    conversation.check(request)


def _validate_upstream(promised: Promised, request: Request) -> None:
    if not promised.reference_loop:
        raise RequestError("This pair's backend brings no loop of its own to compare with; leave --engine out.")
    if request.drafter != "draft":
        raise RequestError("Upstream's loop drafts by a draft model only; leave --drafter out.")
    if request.arms == "target":
        raise RequestError("Upstream's loop is the speculative arm; leave --engine out, or choose both arms.")
    if request.acceptor in ACCEPTORS and request.acceptor not in (Rejection.name, Upstream.name):
        raise RequestError(
            f"Upstream's loop has an acceptor of its own and cannot take {request.acceptor}; leave "
            "--acceptor out, or give "
            "a TokenAcceptor of yours as module:Name."
        )


def _validate_window(windows: tuple[int, ...] | None, request: Request, upstream: bool) -> None:
    if request.k == AUTO:
        if upstream or request.drafter == "lookup":
            raise RequestError("k = auto weighs what a draft model costs; choose a k, or the drafter draft.")
    elif not isinstance(request.k, int) or not MIN_K <= request.k <= MAX_K:
        raise RequestError(f"The window k is {request.k}; choose {MIN_K} to {MAX_K}, or auto.")
    elif windows is not None and request.k not in windows:
        known = ", ".join(map(str, windows))
        raise RequestError(f"The window k = {request.k} was not compiled; choose one of {known}.")


def validate_sampling(sampling: Sampling) -> None:
    """Raise RequestError unless the warp and the seed can work."""
    if not 0 <= sampling.temperature <= MAX_TEMPERATURE:  # False for NaN too
        raise RequestError(
            f"The temperature is {sampling.temperature:g}; choose a number from 0 (always the most likely token) "
            f"to {MAX_TEMPERATURE:g}."
        )
    if not 0 < sampling.top_p <= 1:
        raise RequestError(f"top_p is {sampling.top_p:g}; choose a number above 0 and up to 1 (1 switches it off).")
    if sampling.top_k < 0:
        raise RequestError(f"top_k is {sampling.top_k}; choose 0 (off) or a positive whole number.")
    if not 0 <= sampling.seed <= MAX_SEED:
        raise RequestError(f"The seed is {sampling.seed}; choose a whole number from 0 to {MAX_SEED}.")


def prompt_ids(pair: Pair, request: Request) -> list[int]:
    """The ids the request's prompt or messages become. Raises RequestError where nothing is left, or no room."""
    messages = conversation.turns(request)
    what, remedy = "prompt", "shorten it"
    if request.messages:
        what, remedy = "conversation", "go back to an earlier turn or begin a new one"
    if sum(len(message["content"]) for message in messages) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"The {what} is longer than {MAX_PROMPT_CHARACTERS} characters; {remedy}.")
    tokenizer = pair.tokenizer
    if request.chat_template and tokenizer.has_chat_template:
        ids = tokenizer.encode_chat(messages)
    else:
        ids = tokenizer.encode("\n\n".join(message["content"] for message in messages))
    limit = n_positions(pair, request)
    if not ids:
        raise RequestError("The prompt is empty; type something for the model to answer.")
    if (highest := max(ids)) >= pair.target.vocab_size:  # a token added to the tokenizer alone
        piece = tokenizer.piece(highest).decode("utf-8", "replace")
        raise RequestError(
            f"The prompt holds {piece!r}, a token that {pair.target.name} has no weights for; take it out."
        )
    if len(ids) >= limit:
        raise RequestError(
            f"The {what} is {len(ids)} tokens long and the context holds {limit}; {remedy} so that there is room "
            "for an answer."
        )
    return ids
