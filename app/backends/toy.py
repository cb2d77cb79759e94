"""Toy models: tables of random logits that keep the whole contract of `app.engine.model`, for tests and demonstrations.

They load no weights and say the same from a seed everywhere. They are strict: every broken rule of the contract is an
AssertionError, an array returned earlier turns to NaN once it is no longer the caller's, and the logits of a position
depend on every token in the cache, so that one stale token changes what follows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from collections.abc import Sequence as Ids
from functools import lru_cache
from typing import Literal

import numpy as np

from app.engine.model import Logits, States

Agreement = Literal["same", "good", "bad", "adversarial"]

BYTES = 256
USER, ASSISTANT, STOP = BYTES, BYTES + 1, BYTES + 2
BYTE_LEVEL = BYTES + 3
CONTROLS = {b"<user>": USER, b"<assistant>": ASSISTANT, b"<stop>": STOP}
READABLE = frozenset(b" abcdefghijklmnopqrstuvwxyz")

WOBBLE = 0.4  # how much the tokens before the last two move a logit
DIGESTS = 2**61 - 1


class ToyTokenizer:
    """Byte-level (vocab_size 259: the bytes, <user>, <assistant>, <stop>), or one letter a token for less than 27
    ids."""

    def __init__(self, vocab_size: int = BYTE_LEVEL, stop_ids: Iterable[int] = ()) -> None:
        assert vocab_size == BYTE_LEVEL or 1 < vocab_size <= 26, vocab_size
        self.vocab_size = vocab_size
        self.stop_ids = frozenset(stop_ids)
        self.has_chat_template = vocab_size == BYTE_LEVEL

    def encode(self, text: str) -> list[int]:
        data = text.encode("utf-8", "surrogateescape")
        if not self.has_chat_template:
            return [(byte - ord("a")) % self.vocab_size for byte in data]
        parts = re.split(b"(" + b"|".join(CONTROLS) + b")", data)
        return [token for part in parts for token in ([CONTROLS[part]] if part in CONTROLS else part)]

    def encode_chat(self, messages: Ids[dict[str, str]]) -> list[int]:
        assert self.has_chat_template
        ids: list[int] = []
        for message in messages:
            opening = ASSISTANT if message["role"] == "assistant" else USER
            ids += [opening, *message["content"].encode("utf-8", "surrogateescape")]
        return [*ids, ASSISTANT]

    def piece(self, token_id: int) -> bytes:
        assert 0 <= token_id < self.vocab_size, token_id
        if not self.has_chat_template:
            return bytes([ord("a") + token_id])
        return bytes([token_id]) if token_id < BYTES else list(CONTROLS)[token_id - BYTES]

    def is_special(self, token_id: int) -> bool:
        return token_id in self.stop_ids or token_id >= BYTES


class ToyModel:
    """A table of logits indexed by the last two tokens, moved a little by a digest of the whole context.

    known: ids below it can be produced, the padding from there to vocab_size and the `trimmed` ids have logit -inf.
    agreement: None for a target; for a draft how its table relates to that of the target with the same seed
    (`same`; `good`: noise added; `bad`: another table; `adversarial`: the sign changed, likely where the target is
    not). script: what the model says instead, whatever the prompt, then a stop token. stop_ids: for the script's end.
    bias [known]: added to every row. delay: seconds each pass takes. broken_at: the position whose logits are NaN.
    window_noise: makes a row depend on its window, as on a backend that cannot promise bit identity.
    """

    device = "table"
    dtype = "f32"

    def __init__(
        self,
        name: str = "toy target",
        *,
        vocab_size: int = 8,
        known: int | None = None,
        seed: int = 0,
        agreement: Agreement | None = None,
        sharpness: float = 1.5,
        trimmed: Iterable[int] = (),
        bias: Logits | None = None,
        script: Ids[int] = (),
        stop_ids: Iterable[int] = (),
        n_positions: int = 256,
        windows: tuple[int, ...] | None = None,
        max_sequences: int | None = None,
        delay: float = 0.0,
        broken_at: int | None = None,
        window_noise: float = 0.0,
        state_width: int | None = None,
        reads_states: bool = False,
    ) -> None:
        self.name = name
        self.vocab_size = vocab_size
        self.known = vocab_size if known is None else known
        self.n_positions = n_positions
        self.state_width, self.reads_states = state_width, reads_states
        self.windows = windows
        self.max_sequences = max_sequences
        self.bit_identical = window_noise == 0
        self.num_parameters = self.known**2 * vocab_size
        self.delay = delay
        self.passes = 0
        self.open_sequences = 0
        self._seed = seed
        self._agreement = agreement
        self._sharpness = sharpness
        self._trimmed = sorted(trimmed)
        self.kept_ids = np.setdiff1d(np.arange(self.known), self._trimmed) if self._trimmed else None
        self._bias = bias
        self._script = tuple(script)
        self._stop = min(stop_ids, default=None)
        self._broken_at = broken_at
        self._window_noise = window_noise
        self._row = lru_cache(maxsize=8192)(self._make_row)
        assert not self._script or self._stop is not None, "a script needs a stop token to end with"

    def memory(self) -> int:
        return 4 * self.num_parameters

    def new_sequence(self, windows: Ids[int] = ()) -> ToySequence:
        assert self.max_sequences is None or self.open_sequences < self.max_sequences, "too many sequences are open"
        return ToySequence(self)

    def logits(self, token_ids: Ids[int]) -> Logits:
        """float32 [vocab_size] of the token after `token_ids`, for enumerating what a run should give."""
        return self.score(list(token_ids), _digests(token_ids)[-1])

    def score(self, token_ids: list[int], digest: int) -> Logits:
        """`logits`, the digest of the tokens known."""
        if len(token_ids) == self._broken_at:
            return np.full(self.vocab_size, np.nan, np.float32)
        before, last = ([-1, *token_ids])[-2:]
        row = self._row(before, last) + self._wobble(digest)
        if self._script:
            row[self._scripted(token_ids)] = row.max() + 12
        return row

    def _wobble(self, digest: int) -> Logits:
        sign = -WOBBLE if self._agreement == "adversarial" else WOBBLE
        angles = digest / DIGESTS * np.arange(7, 7 + self.vocab_size, dtype=np.float64)
        return (sign * np.cos(2 * np.pi * angles)).astype(np.float32)

    def _scripted(self, token_ids: list[int]) -> int:
        """What follows the longest beginning of the script that the context ends with."""
        script = list(self._script)
        said = next(n for n in range(len(script), -1, -1) if n == 0 or token_ids[-n:] == script[:n])
        if said == len(script):
            assert self._stop is not None
            return self._stop
        wrong = {None: False, "same": False, "good": said % 4 == 3}.get(self._agreement, True)
        return script[said] ^ 1 if wrong else script[said]

    def _make_row(self, before: int, last: int) -> Logits:
        where = [self._seed, before + 1, last + 1]
        table = np.random.default_rng([*where, 0]).standard_normal(self.known)
        if self._agreement not in (None, "same"):
            own = np.random.default_rng([*where, 1]).standard_normal(self.known)
            table = {"good": table + 0.6 * own, "bad": own, "adversarial": -table}[str(self._agreement)]
        row = np.full(self.vocab_size, -np.inf, np.float32)
        row[: self.known] = self._sharpness * table
        if self._bias is not None:
            row[: self.known] += self._bias
        row[self._trimmed] = -np.inf
        row.flags.writeable = False
        return row


class ToySequence:
    """A cache as real ones are: rolling back only moves the length, and what lies beyond it stays until overwritten."""

    def __init__(self, model: ToyModel) -> None:
        self._model = model
        self._tokens: list[int] = []
        self._digests = [0]
        self._length = 0
        self._begun = 0
        self._returned: Logits | None = None
        self._open = True
        model.open_sequences += 1

    @property
    def length(self) -> int:
        return self._length

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What is in the cache."""
        return tuple(self._tokens[: self._length])

    @property
    def states(self) -> States:
        """Of the digests behind the tokens of the last pass."""
        assert self._model.state_width is not None, "the model gives no states"
        angles = np.outer(self._digests[self._begun + 1 : self._length + 1], np.arange(1, self._model.state_width + 1))
        return np.cos(2 * np.pi * angles / DIGESTS).astype(np.float32)

    def forward(self, token_ids: Ids[int], num_logits: int, before: States | None = None) -> Logits:
        model = self._model
        assert before is None or model.reads_states, "the model reads no states"
        assert before is None or before.shape == (len(token_ids), 2 * (model.state_width or 0)), before.shape
        assert self._open, "the sequence was closed"
        assert 1 <= num_logits <= len(token_ids), (num_logits, len(token_ids))
        assert self._length + len(token_ids) <= model.n_positions, "the context is longer than n_positions"
        assert model.windows is None or num_logits <= max(1, *model.windows), "no such window was compiled"
        assert all(0 <= token < model.vocab_size for token in token_ids), "an id outside the vocabulary"
        if self._returned is not None:
            self._returned.fill(np.nan)
        model.passes += 1
        if model.delay:
            time.sleep(model.delay)
        start = self._begun = self._length
        self._length += len(token_ids)
        self._tokens[start : self._length] = token_ids
        # what was read beside a token is in the cache too, for all that come after it
        read = (
            token_ids
            if before is None
            else [token + hash(tuple(bits)) for token, bits in zip(token_ids, _bits(before), strict=True)]
        )
        self._digests[start : self._length + 1] = _digests(read, self._digests[start])
        self._returned = np.stack(
            [
                model.score(self._tokens[:end], self._digests[end])
                for end in range(self._length - num_logits + 1, self._length + 1)
            ]
        )
        if model._window_noise:
            self._returned += model._window_noise * np.sin(np.arange(model.vocab_size, dtype=np.float32) * num_logits)
        if model.kept_ids is not None:
            self._returned = self._returned[:, model.kept_ids]
        return self._returned

    def rollback(self, length: int) -> None:
        assert self._open, "the sequence was closed"
        assert 0 <= length <= self._length, (length, self._length)
        self._length = length

    def close(self) -> None:
        assert self._open, "the sequence was closed twice"
        self._open = False
        self._model.open_sequences -= 1


def toy_pair(
    vocab_size: int = 8,
    *,
    seed: int = 0,
    agreement: Agreement = "good",
    sharpness: float = 1.5,
    padding: tuple[int, int] = (0, 0),
    trimmed: Iterable[int] = (),
    stop_ids: Iterable[int] | None = None,
    script: str = "",
    n_positions: int = 256,
    windows: tuple[int, ...] | None = None,
    max_sequences: int | None = None,
    delay: float = 0.0,
    draft_delay: float | None = None,
    broken_at: int | None = None,
    window_noise: float = 0.0,
    sighted: bool = False,
) -> tuple[ToyModel, ToyModel, ToyTokenizer]:
    """(target, draft, tokenizer). vocab_size 259 is byte-level, and chosen by giving a `script`.

    padding: ids added to (target, draft). trimmed: ids the draft cannot produce. windows and broken_at are the
    target's; sighted: the draft reads the target's states; draft_delay is a fifth of `delay` where not given; the
    others are for both. See `ToyModel`.
    """
    if script:
        vocab_size = BYTE_LEVEL
    byte_level = vocab_size == BYTE_LEVEL
    stops = frozenset({STOP} if byte_level else ()) if stop_ids is None else frozenset(stop_ids)
    tokenizer = ToyTokenizer(vocab_size, stops)
    bias = None
    if byte_level:  # letters, and now and then the end
        bias = np.full(vocab_size, -20, np.float32)
        bias[sorted(READABLE)] = 0
        bias[sorted(stops)] = -3

    def model(name: str, role: Agreement | None, extra: int, **options: object) -> ToyModel:
        return ToyModel(
            name,
            vocab_size=vocab_size + extra,
            known=vocab_size,
            seed=seed,
            agreement=role,
            sharpness=sharpness,
            bias=bias,
            script=tokenizer.encode(script),
            stop_ids=stops,
            n_positions=n_positions,
            max_sequences=max_sequences,
            window_noise=window_noise,
            state_width=3 if sighted else None,
            reads_states=sighted and role is not None,
            **options,  # type: ignore[arg-type]
        )

    target = model("toy target", None, padding[0], windows=windows, delay=delay, broken_at=broken_at)
    draft = model(
        "toy draft",
        agreement,
        padding[1],
        trimmed=trimmed,
        delay=delay / 5 if draft_delay is None else draft_delay,
    )
    return target, draft, tokenizer


def _bits(before: States) -> list[list[int]]:
    """The rows as integers, in coarse steps: equal for what is equal but for rounding."""
    steps: list[list[int]] = np.round(before * 1000).astype(int).tolist()
    return steps


def _digests(token_ids: Ids[int], digest: int = 0) -> list[int]:
    """The digests of every beginning of `token_ids`, the first that of nothing (given)."""
    digests = [digest]
    for token in token_ids:
        digest = (digest * 1_000_003 + (token + 1) * 0x9E3779B97F4A7C15) % DIGESTS
        digests.append(digest)
    return digests
