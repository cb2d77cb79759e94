"""What the Neuron tests share: prompts and draws, what a clean context gives, both arms over a pair of the fake."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from app.backends.neuron.model import NeuronModel, NeuronSequence
from app.engine.acceptance import ACCEPTORS
from app.engine.decode import Limits, decode
from app.engine.drafting import ModelDrafter
from app.engine.race import race
from app.engine.windows import Fixed
from app.neuron.catalogue import NXD_INFERENCE, TRANSFORMERS_NEURONX
from app.record.trace import Arm, Round, Sampling
from tests.support import neuron_device

torch.set_num_threads(1)  # rows of 24 numbers: more threads only wait for one another

V = 24
PROMPT = [3, 1, 4, 1, 5]
WINDOWS = (2, 3, 5, 8)
AGREEING: dict[str, Any] = {"seed": 1, "noise": 1.5}  # a draft that often says what the target says
NO_ZERO = {"banned": 0}  # upstream takes token 0 for padding
GREEDY = Sampling()
WARM = Sampling(temperature=1.0, seed=7)

ON_TRANSFORMERS_NEURONX = pytest.mark.parametrize("library", [TRANSFORMERS_NEURONX], indirect=True)
ON_NXD_INFERENCE = pytest.mark.parametrize("library", [NXD_INFERENCE], indirect=True)

Load = Callable[..., tuple[NeuronModel, NeuronModel]]


def expected(model: NeuronModel, context: Sequence[int], rows: int) -> np.ndarray[Any, Any]:
    """The last rows after `context`, from the fake's own function on a clean context."""
    ends = range(len(context) - rows + 1, len(context) + 1)
    return np.stack([neuron_device.expected_logits(model.module.fake, V, context[:end]) for end in ends])


def calls(model: NeuronModel) -> list[tuple[str, int, int]]:
    """What reached the device since the last look."""
    made = list(model.module.calls)
    model.module.calls.clear()
    return made


def arm(
    target: NeuronModel, draft: NeuronModel | None, prompt: Sequence[int], k: int = 5, **options: Any
) -> Generator[Round, None, None]:
    """One arm, over sequences of its own."""
    sampling = options.get("sampling", GREEDY)
    stop_ids = frozenset(options.get("stop_ids", ()))
    limits = Limits(options.get("max_tokens", 24), target.n_positions, stop_ids)
    sequences: list[NeuronSequence] = [target.new_sequence()]
    drafter = None
    try:
        if draft is not None:
            sequences.append(draft.new_sequence())
            drafter = ModelDrafter(
                sequences[1], name=draft.name, vocab_size=draft.vocab_size, sampling=sampling, stop_ids=stop_ids
            )
        acceptor = ACCEPTORS[options.get("acceptor", "rejection")]
        yield from decode(
            sequences[0],
            drafter,
            prompt,
            windows=Fixed(k),
            sampling=sampling,
            acceptor=acceptor,
            limits=limits,
            target_name=target.name,
        )
    finally:
        for sequence in sequences:
            sequence.close()


def text(rounds: Sequence[Round]) -> list[int]:
    return [token for round_ in rounds for token in round_.token_ids]


def both(
    target: NeuronModel, draft: NeuronModel, prompt: Sequence[int] = PROMPT, **options: Any
) -> tuple[list[Round], list[Round]]:
    """Both arms, one after the other as the page runs them on Neuron."""
    arms: dict[Arm, Generator[Round, None, None]] = {
        "target": arm(target, None, prompt, **options),
        "speculative": arm(target, draft, prompt, **options),
    }
    rounds = list(race(arms, one_at_a_time=True))
    return [r for r in rounds if r.arm == "target"], [r for r in rounds if r.arm == "speculative"]


def greedy_text(model: NeuronModel, prompt: Sequence[int], count: int, vocab_size: int = V) -> list[int]:
    context = list(prompt)
    for _ in range(count):
        context.append(int(neuron_device.expected_logits(model.module.fake, vocab_size, context).argmax()))
    return context[len(prompt) :]
