"""The record of a run, for notebooks and scripts: open a trace file, and work its figures out. Stdlib only.

from app.record import advise, calibrate, open_trace, summary
trace = open_trace("run.jsonl")
print(summary(trace)["speedup"], *(each.sentence for each in advise(trace)))
"""

from app.record.advice import Advice, advise
from app.record.along import Place, along_answer
from app.record.calibration import Bin, calibrate, calibration_error
from app.record.comparison import Card, Comparison, card_of, compare
from app.record.conversation import after
from app.record.histogram import kept_per_round, nothing_kept
from app.record.metrics import Metrics, acceptance_by_kind, summary
from app.record.theory import counterfactuals, what_if
from app.record.trace_files import open_trace

__all__ = [
    "Advice",
    "Bin",
    "Card",
    "Comparison",
    "Metrics",
    "Place",
    "acceptance_by_kind",
    "advise",
    "after",
    "along_answer",
    "calibrate",
    "calibration_error",
    "card_of",
    "compare",
    "counterfactuals",
    "kept_per_round",
    "nothing_kept",
    "open_trace",
    "summary",
    "what_if",
]
