"""What `bench gpu` measures, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.bench import gpu_models
from app.record.trace import Sampling

CONTEXT = 1024
SAMPLINGS = {
    "T = 0": Sampling(),
    "T = 1": Sampling(temperature=1.0),
    "T = 1, top_p 0.95": Sampling(temperature=1.0, top_p=0.95),
    "T = 1, top_k 50": Sampling(temperature=1.0, top_k=50),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. tokens: of a timed answer; said: of the answers compared."""

    device: Any
    target: Any
    draft: Any
    small: Any = gpu_models.SMALL
    small_draft: Any = gpu_models.SMALL_DRAFT
    large: Any = gpu_models.LLAMA_3_1_70B
    """In 4 bits."""
    dtype: str = "bf16"
    context: int = CONTEXT
    tokens: int = 96
    said: int = 10_000
    repeats: int = 30
    peers: bool = True
