"""A comparison as text, as the README's table, and as one self-contained page with plots."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def table(result: dict[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table, ratios first; what is missing by name, and why."""
    first = result["ours"][0]
    alone = first["target"]["tpot_s"]
    yield (
        "| arm | against our target alone | quartiles | TPOT, ms | tokens a pass | acceptance | v | host | TTFT, ms | "
        "same text |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for ours in result["ours"]:
        target, dtype = ours["target"], ours["dtype"]
        yield _row(f"target alone, {dtype}", alone / target["tpot_s"], None, target, None, "")
        for row in ours["speculative"]:
            name = f"speculative, {dtype}, k = {row['k']}"
            same = f"{row['identical']} of {row['runs']}"
            quartiles = row["quartiles"] if ours is first else None
            yield _row(name, alone / row["tpot_s"], quartiles, row, row["verify_ratio"], same)
    for peer in result["peers"]:
        if peer["runs"]:
            how = f", {peer['num_draft']} drafts" if peer["num_draft"] else ""
            name = f"{peer['name'].replace('+draft', ' with the draft')} ({peer['version'].split(',')[0]}{how})"
            yield _row(name, alone / peer["tpot_s"], None, peer, None, f"{peer['same_text']} of {peer['runs']}")
    yield ""
    yield from notes(result)


def _row(
    name: str, ratio: float, quartiles: list[float] | None, row: dict[str, Any], verify: float | None, same: str
) -> str:
    spread = "" if quartiles is None else f"{quartiles[0]:.2f} to {quartiles[1]:.2f}"
    acceptance = row.get("acceptance_rate")
    cells = (
        name,
        f"**{ratio:.2f}×**",
        spread,
        f"{1000 * row['tpot_s']:.2f}",
        f"{row['mean_acceptance_length']:.2f}" if "mean_acceptance_length" in row else "",
        "" if acceptance is None else f"{acceptance:.2f}",
        "" if verify is None else f"{verify:.2f}",
        f"{100 * row['host_share']:.0f}%" if "host_share" in row else "",
        f"{1000 * row['ttft_s']:.0f}",
        same,
    )
    return f"| {' | '.join(cells)} |"


def notes(result: dict[str, Any]) -> Iterator[str]:
    """What the table does not hold, as sentences."""
    machine, first = result["machine"], result["ours"][0]
    roof = first["roofline"]
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        f"{result['pair']}; {result['prompts']} prompts of up to {result['max_tokens']} tokens, temperature 0; "
        f"{result['seconds'] / 60:.0f} minutes in all."
    )
    yield (
        f"Read bandwidth {result['bandwidth'] / 1e9:.1f} GB/s, measured in the same run: reading the "
        f"{first['dtype']} weights "
        f"once takes {1000 * roof['floor_s']:.1f} ms, a pass of the target over one token "
        f"{1000 * roof['pass_s']:.1f} ms, "
        f"{100 * roof['fraction']:.0f}% of that limit."
    )
    cost = first["cost_ratio"]
    yield (
        f"Acceptance α = {first['acceptance_rate'] or 0:.2f}, cost ratio c = {cost or 0:.3f} over "
        "all windows. Memory: target "
        f"{first['memory']['target'] / 1e6:.0f} MB, draft {first['memory']['draft'] / 1e6:.0f} MB, process "
        f"{first['memory']['process'] / 1e6:.0f} MB."
    )
    grown = ", ".join(
        f"{row['context']}: {1000 * row['target_s']:.1f} and {row['verify_5_s'] / row['target_s']:.2f}"
        for row in first["contexts"]
    )
    if grown:
        yield f"By context, the target's pass in ms and v(5): {grown}."
    yield from result.get("notes", ())
    yield from goals(result)
    for name, why in result["missing"].items():
        yield f"Missing: {name}. {why}"


def goals(result: dict[str, Any]) -> Iterator[str]:
    """Our arms against the peers' in one sentence for each peer."""
    first = result["ours"][0]
    best = min(first["speculative"], key=lambda row: row["tpot_s"])
    for peer in result["peers"]:
        if peer["runs"]:
            yield (
                f"Against {peer['name'].replace('+draft', ' with the draft')}{_file(result, peer['name'])}: our target "
                "alone takes "
                f"{peer['our_target_over_it']:.2f} of its time a token, our best speculative arm (k = {best['k']}) is "
                f"{peer['it_over_our_best']:.2f} times as fast."
            )


def _file(result: dict[str, Any], peer: str) -> str:
    """Which file the peer read."""
    name = result.get("read", {}).get(peer)
    return f" on {name}" if name else ""


def into_readme(result: dict[str, Any], readme: Path) -> None:
    """Put the table between the README's marks."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = "\n".join(line if line.startswith("|") or not line else f"- {line}" for line in table(result))
    readme.write_text(f"{before}{BEGIN}\n{lines}\n{END}{after}", encoding="utf-8")


def page(result: dict[str, Any]) -> str:
    """One HTML file with its plots; asks nothing of any host."""
    import plotly.graph_objects as go  # type: ignore[import-untyped]
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    first = result["ours"][0]
    alone = first["target"]["tpot_s"]
    names, ratios = [], []
    for ours in result["ours"]:
        names.append(f"target alone, {ours['dtype']}")
        ratios.append(alone / ours["target"]["tpot_s"])
        for row in ours["speculative"]:
            names.append(f"{ours['dtype']}, k = {row['k']}")
            ratios.append(alone / row["tpot_s"])
    for peer in result["peers"]:
        if peer["runs"]:
            names.append(peer["name"])
            ratios.append(alone / peer["tpot_s"])
    bars = go.Figure(go.Bar(x=ratios, y=names, orientation="h", text=[f"{ratio:.2f}×" for ratio in ratios]))
    bars.add_vline(x=1, line_dash="dash")
    bars.update_layout(title="Speed against our target alone", height=120 + 26 * len(names), yaxis_autorange="reversed")
    by_k = go.Figure()
    for ours in result["ours"]:
        rows = [row for row in ours["speculative"] if row["predicted_speedup"] is not None]
        ks = [row["k"] for row in rows]
        by_k.add_scatter(x=ks, y=[row["speedup"] for row in rows], name=f"measured, {ours['dtype']}")
        by_k.add_scatter(
            x=ks, y=[row["predicted_speedup"] for row in rows], name=f"formula, {ours['dtype']}", line_dash="dot"
        )
    by_k.update_layout(title="Speedup by k", xaxis_title="window k", yaxis_title="speedup")
    grown = go.Figure()
    for name in ("target_s", "verify_5_s", "draft_s"):
        rows = [row for row in first["contexts"] if name in row]
        grown.add_scatter(x=[row["context"] for row in rows], y=[1000 * row[name] for row in rows], name=name[:-2])
    grown.update_layout(title="Growth with the context", xaxis_title="tokens cached", yaxis_title="ms a pass")
    figures = [bars, by_k, *([grown] if first["contexts"] else [])]
    config = {"displaylogo": False}
    plots = "".join(figure.to_html(full_html=False, include_plotlyjs=False, config=config) for figure in figures)
    lines = html.escape("\n".join(table(result)).replace("**", ""))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Bench</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:24px auto;padding:0 16px}"
        "pre{overflow-x:auto;font-size:13px}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><h1>{html.escape(result['pair'])}</h1>{plots}<pre>{lines}</pre>"
        "</body></html>\n"
    )
