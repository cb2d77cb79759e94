"""What a request may ask for, and what it gets where it does not say: one home for page, API, command line and engine.

Stdlib only.
"""

from __future__ import annotations

from typing import Literal

AUTO: Literal["auto"] = "auto"
"""The k of a request that leaves the window of each round to the loop."""
K = int | Literal["auto"]

MIN_K, MAX_K = 2, 16
DEFAULT_K = 3
DEFAULT_KS = (2, 3, 4, 5, 8)
"""Windows a sweep compares."""
MAX_TOKENS, DEFAULT_MAX_TOKENS = 4096, 128
MAX_PROMPT_CHARACTERS = 200_000
MAX_MESSAGES = 256
"""Turns of a conversation before what is asked now."""
MAX_TEMPERATURE = 10.0
MAX_SEED = 2**63 - 1
DRAFTERS = ("draft", "lookup", "draft+lookup")

LENIENCY = 0.5
"""What `lenient` multiplies q by before the test."""
TYPICAL_EPSILON, TYPICAL_DELTA = 0.09, 0.3
"""Of `typical` (Medusa, arXiv 2401.10774): a draft is plausible above min(ε, δ exp(-entropy))."""


def parse_k(text: str) -> K:
    """A window as people write it: a whole number, or auto. Raises ValueError."""
    return AUTO if text == AUTO else int(text)
