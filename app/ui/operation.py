"""What those who operate the page can read of it: figures in Prometheus' text format. No gradio here."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from app.record.trace import ARMS, Event, Round, RunFinished

SPEEDUPS = (0.5, 0.75, 1.0, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Figures:
    """Counters of one page, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.runs = Counter(
            "playground_runs",
            "Runs that ended, by how: stop, length, context, cancelled, error, refused.",
            ["reason"],
            registry=self.registry,
        )
        self.tokens = Counter("playground_tokens", "Tokens made, by arm.", ["arm"], registry=self.registry)
        self.refused = Counter(
            "playground_refused",
            "What was turned away, by why: line (full), guard (requests).",
            ["by"],
            registry=self.registry,
        )
        self.faults = Counter(
            "playground_faults", "Faults inside the playground that a person was told of.", registry=self.registry
        )
        self.restarts = Gauge("playground_engine_restarts", "Engines started again.", registry=self.registry)
        self.waiting = Gauge("playground_waiting", "Runs that wait for an engine.", registry=self.registry)
        self.running = Gauge("playground_running", "Runs under way.", registry=self.registry)
        self.engines = Gauge("playground_engines", "Engines there are.", registry=self.registry)
        self.memory = Gauge(
            "playground_engine_memory_bytes", "Memory the engine's process holds.", registry=self.registry
        )
        self.speedup = Histogram(
            "playground_speedup",
            "TPOT of the target alone over that of the speculative arm, of runs with both.",
            buckets=SPEEDUPS,
            registry=self.registry,
        )
        self.seconds = Histogram(
            "playground_run_seconds",
            "Wall time of a run, from its turn to its end.",
            buckets=SECONDS,
            registry=self.registry,
        )

    def watch(self, waiting: Callable[[], int], running: Callable[[], int], engines: Callable[[], int]) -> None:
        """Where the gauges of the line come from."""
        self.waiting.set_function(waiting)
        self.running.set_function(running)
        self.engines.set_function(engines)

    def counted(self, events: Generator[Event, None, None]) -> Generator[Event, None, None]:
        """The events as they are, counted once the run is over."""
        began, reason, clocks = time.monotonic(), "cancelled", dict[str, _Clock]()
        try:
            for event in events:
                if isinstance(event, Round):
                    clocks.setdefault(event.arm, _Clock()).add(event)
                elif isinstance(event, RunFinished):
                    reason = event.reason
                yield event
        finally:
            events.close()
            self.runs.labels(reason).inc()
            self.seconds.observe(time.monotonic() - began)
            for arm, clock in clocks.items():
                self.tokens.labels(arm).inc(clock.tokens)
            target, speculative = (clocks.get(arm, _Clock()).tpot_s for arm in ARMS)
            if target and speculative:
                self.speedup.observe(target / speculative)

    def text(self) -> bytes:
        """All of them, as `GET /metrics` gives them."""
        return generate_latest(self.registry)


class _Clock:
    """An arm's tokens and its time: the page's figures are folded from the same events, but cost more."""

    def __init__(self) -> None:
        self.tokens, self._seconds, self._first = 0, 0.0, 0.0

    def add(self, round_: Round) -> None:
        self.tokens += len(round_.token_ids)
        self._seconds += round_.seconds
        if not round_.index:
            self._first = round_.seconds

    @property
    def tpot_s(self) -> float | None:
        return (self._seconds - self._first) / (self.tokens - 1) if self.tokens > 1 else None
