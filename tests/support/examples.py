"""How many examples a property is tried on."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

USUAL = 100
"""Where a test does not say: hypothesis' own number."""


def examples(number: int, *, suppress: tuple[HealthCheck, ...] = ()) -> settings:
    """`number` of them; under `--quick`, whose profile has fewer than USUAL, as much fewer."""
    return settings(max_examples=max(1, number * settings().max_examples // USUAL), suppress_health_check=suppress)
