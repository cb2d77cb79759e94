"""What is to be reached on one H100, and what of it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.bench.gpu_plan import SAMPLINGS

GOALS = {
    "bandwidth_share": (">=", 0.70),
    "cost_ratio": ("<=", 0.20),
    "verify_ratio_5": ("<=", 1.05),
    "verify_ratio_8": ("<=", 1.10),
    "host_share": ("<=", 0.05),
    "over_generate": (">=", 2.0),
    "over_assisted": (">=", 2.0),
    "identical": (">=", 1.0),
    "identical_tokens": (">=", 10_000),
}


def goals(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Each goal with what was measured, where it was. parts: the report's."""
    figures = {**_passes(parts), **_peers(parts), **_texts(parts)}
    table = {}
    for name, value in figures.items():
        relation, goal = GOALS.get(name.split(",")[0], (None, None))
        met = None if goal is None else value >= goal if relation == ">=" else value <= goal
        table[name] = {"measured": value, "goal": None if goal is None else f"{relation} {goal}", "met": met}
    return table


def _part(parts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parts.get(name)
    return value if isinstance(value, Mapping) and not {"failed", "left_out"} & set(value) else {}


def _passes(parts: Mapping[str, Any]) -> dict[str, float]:
    figures = {}
    tpot = _part(parts, "target_alone").get("tpot_ms")
    copy, read = (
        _part(parts, name).get(key) for name, key in (("bandwidth", "copy_bytes_s"), ("models", "read_a_pass"))
    )
    if tpot and copy and read:
        figures["bandwidth_share"] = read / (1e-3 * tpot) / copy
    for name in SAMPLINGS:
        if tpot and (draft := _part(parts, "draft_ms").get(name)):
            figures[f"cost_ratio, {name}"] = draft / tpot
    settled = _part(parts, "passes_settled")
    widths = sorted(int(width) for width in settled)
    for rows in (5, 8):
        if wide := next((width for width in widths if width >= rows), None):
            figures[f"verify_ratio_{rows}"] = settled[str(wide)] / settled[str(widths[0])]
    hosts = [_part(parts, name).get("host_share") for name in parts if "top_p" in name]
    if shares := [each for each in hosts if each is not None]:
        figures["host_share"] = max(shares)
    return figures


def _peers(parts: Mapping[str, Any]) -> dict[str, float]:
    theirs = _part(parts, "transformers")
    ours = [_part(parts, name).get("tpot_ms") for name in parts if name.endswith("T = 0") or name == "target_alone"]
    best = min((each for each in ours if each), default=None)
    if best is None or "generate" not in theirs:
        return {}
    figures = {"over_generate": theirs["generate"]["tpot_ms"] / best}
    if alone := _part(parts, "target_alone").get("tpot_ms"):
        figures["target_alone_over_generate"] = theirs["generate"]["tpot_ms"] / alone
    assisted = [value["tpot_ms"] for name, value in theirs.items() if name.startswith("assisted")]
    if assisted:
        figures["over_assisted"] = min(assisted) / best
    return figures


def _texts(parts: Mapping[str, Any]) -> dict[str, float]:
    figures = {}
    texts = [_part(parts, name) for name in parts if name.startswith("same_text")]
    if answers := [each["identical"] for each in texts if "identical" in each]:
        figures["identical"] = float(all(answers))
    if embedded := _part(parts, "same_text_embedded"):
        figures["identical_tokens"] = float(embedded["tokens"])
    return figures
