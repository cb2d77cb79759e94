"""What the engine asks of a model: weights (`Model`), one KV cache over them (`KVCache`), text (`Tokenizer`)."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
States = Any
"""Final hidden states behind a model's last norm, [positions, width]: what its output layer makes logits of. float32
arrays, or what a backend keeps on its device for a sight of its own (`app.engine.sight.sight_of`); a slice of them is
some of their positions."""


class KVCache(Protocol):
    """One KV cache: the first `length` tokens of a context are in it."""

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        ...

    def forward(self, token_ids: Sequence[int], num_logits: int) -> Logits:
        """Append `token_ids` to the cache and score their last `num_logits` positions.

        Returns float32 [num_logits, vocab_size], or [num_logits, n] for a model of n `kept_ids`; row i predicts the
        token after `token_ids[len(token_ids) - num_logits + i]`. Returned only when ready, so a clock around the call
        times the pass. The array is the caller's until the next `forward` of this sequence. A row must not
        depend on how many rows were scored with it (`Model.bit_identical`). Ids a model cannot produce have
        logit -inf. Asserts 1 <= num_logits <= len(token_ids) and length + len(token_ids) <= n_positions.
        """
        ...

    def rollback(self, length: int) -> None:
        """Forget every token from position `length` on. Absolute, and free. Asserts length <= self.length."""
        ...

    def close(self) -> None:
        """Give the cache back to the model; the sequence is not used again."""
        ...


class StatesCache(KVCache, Protocol):
    """The cache of a model that gives states (`Model.state_width`)."""

    def forward(self, token_ids: Sequence[int], num_logits: int, before: States | None = None) -> Logits:
        """See `KVCache.forward`. before: [len(token_ids), 2 * width] of an `app.engine.sight.Sight`, for a model that
        reads states; zeros where it is None."""
        ...

    @property
    def states(self) -> States:
        """The states behind every token of the last `forward`, [len(token_ids), width]; the caller's until the next."""
        ...


class Model(Protocol):
    """Loaded weights, shared by the sequences made from them."""

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def n_positions(self) -> int:
        """The longest context a sequence can hold, in tokens."""
        ...

    @property
    def dtype(self) -> str:
        """Precision of the weights: int8, bf16, f16, f32, ..."""
        ...

    @property
    def device(self) -> str: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def windows(self) -> tuple[int, ...] | None:
        """The compiled windows k; None: any k."""
        ...

    @property
    def max_sequences(self) -> int | None:
        """Sequences that can be open at once; None: as many as memory holds."""
        ...

    @property
    def kept_ids(self) -> NDArray[np.int64] | None:
        """The ids this model scores, ascending, where it scores not all of them: only a draft may."""
        ...

    @property
    def state_width(self) -> int | None:
        """The width of the states its caches give (`StatesCache`); None: they give none."""
        ...

    @property
    def reads_states(self) -> bool:
        """Whether it is a draft that reads, beside a token, its target's state of the position before; then it gives
        its own too."""
        ...

    @property
    def bit_identical(self) -> bool:
        """Whether a row's logits are promised not to depend on the window it was scored in."""
        ...

    def memory(self) -> int:
        """Bytes held by the weights."""
        ...

    def new_sequence(self, windows: Sequence[int] = ()) -> KVCache:
        """An empty KV cache. Asserts that fewer than `max_sequences` are open.

        windows: how many rows the passes after the prompt will have, at most each; what a backend prepares for them it
        prepares here, so that no pass pays for it, and among sequences made with windows a row's logits are then the
        same in every one of them (`bit_identical`).
        """
        ...


class Tokenizer(Protocol):
    """Text to ids and back. `piece` is a token's raw bytes: a character may be split over several tokens."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def stop_ids(self) -> frozenset[int]: ...
    @property
    def has_chat_template(self) -> bool: ...
    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it is (special tokens written in it are recognised)."""
        ...

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation (role, content) in the model's chat template, up to where the answer begins."""
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes token `token_id` stands for."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a control token (such as a stop token) rather than text."""
        ...
