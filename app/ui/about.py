"""The About tab: what is seen here, in words. Pure; returns escaped HTML."""

from __future__ import annotations

import html
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from markdown_it import MarkdownIt

from app.record.definitions import DEFINITIONS
from app.record.trace import Event, Round, TokenTexts, rounds
from app.ui.render import label
from app.ui.session import Session

_SOURCES = (
    ("Leviathan, Kalman, Matias 2023", "Fast inference from transformers via speculative decoding", "arXiv 2211.17192"),
    ("Chen et al. 2023", "Accelerating large language model decoding with speculative sampling", "arXiv 2302.01318"),
    ("Sun et al. 2024", "Block verification accelerates speculative decoding", "arXiv 2403.10444"),
    (
        "Daliri et al. 2024",
        "Coupling without communication and drafter-invariant speculative decoding",
        "arXiv 2408.07978",
    ),
    ("Cai et al. 2024", "Medusa: typical acceptance", "arXiv 2401.10774"),
)

_API_EXAMPLE = """from gradio_client import Client

client = Client("http://127.0.0.1:7860")
print(client.predict(api_name="/pairs"))
job = client.submit("Name three rivers.", k=4, api_name="/run")
for line in job:
    print(line)  # one event of the run, as JSON
job.result()  # raises what the playground refused, as a sentence"""

_COMMANDS = """./launch.sh run --prompt "Name three rivers." --k 4 --json
./launch.sh export trace.jsonl
./launch.sh serve --replay trace.jsonl"""


def page(session: Session | None, recorded: Sequence[Event] = (), model_card: str = "") -> str:
    """The whole tab. recorded: a run of the embedded pair, whose rounds are its pictures; model_card: its draft's."""
    return f"""<article class="pg about">
<section>
<h2>What happens here</h2>
<p>A language model writes one token at a time, and every token costs a pass over all its weights: on most machines
that pass waits for memory, not for arithmetic. So scoring several tokens in one pass costs about as much as scoring
one. <b>Speculative sampling</b> uses that: a small <i>draft</i> model guesses the next k − 1 tokens, and the
<i>target</i> scores them all in a single pass. A rule keeps the guesses that agree with the target and replaces the
first that does not. The text stays the target's; only the number of passes falls.</p>
{_picture(recorded)}
<p>The two panes show the same target answering the same prompt, alone and with the draft. They share one device and
never run at the same moment: each has its own clock, and what is shown is what each arm would take by itself. When
all drafts of a round are kept, the target adds a bonus token free; when one is refused, the round took as long and
gave less. How long a window pays depends on how often the pair agrees: that is what the knob k is for.</p>
<h2>From a program</h2>
<p>The endpoints are /run (streams the events of a run), /pairs and /export.</p>
<pre tabindex="0">{html.escape(_API_EXAMPLE)}</pre>
<h2>From the command line</h2>
<pre tabindex="0">{html.escape(_COMMANDS)}</pre>
<h2>Sources</h2>
<ul>{"".join(_source(*source) for source in _SOURCES)}</ul>
<h2>Versions</h2>
<p>{html.escape(_versions())}</p>
{_models(session)}
{_card(model_card)}
</section>
<section>
<h2>Words and figures</h2>
<dl>{
        "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>" for name, text in DEFINITIONS.items()
        )
    }</dl> </section>
</article>"""


def _card(text: str) -> str:
    """A model card's Markdown, its tables too, below the page's own headings; HTML in it is shown, not run."""
    if not text:
        return ""
    body = text.partition("\n")[2].replace("\n## ", "\n### ")  # its title is known here
    rendered = str(_MARKDOWN.render(body))
    # a table wider than its column scrolls by itself, by keyboard too
    rendered = rendered.replace("<table>", '<div class="wide" tabindex="0" role="group" aria-label="table"><table>')
    return "<h2>The embedded draft</h2>" + rendered.replace("</table>", "</table></div>")


def _source(who: str, what: str, where: str) -> str:
    address = f"https://arxiv.org/abs/{where.split()[-1]}"
    return (
        f'<li>{html.escape(who)}: <i>{html.escape(what)}</i>, <a href="{address}" rel="noreferrer">'
        f"{html.escape(where)}</a></li>"
    )


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_SIGNS = {"accepted": "✓", "rejected": "✕", "discarded": "·", "corrected": "↻", "bonus": "+"}
_Window = list[tuple[str, str]]
"""The text and the kind of each token of a round: the known one, the drafts, the target's own."""

_KEPT: _Window = [("the", "known"), *((word, "accepted") for word in ("cat", "sat", "on")), ("a", "bonus")]
_CUT: _Window = [("the", "known"), ("cat", "accepted"), ("ran", "rejected"), ("off", "discarded"), ("sat", "corrected")]


def _picture(recorded: Sequence[Event]) -> str:
    """Two rounds as in the papers' figures: all kept, and one refused; of a recorded run where it has them."""

    def box(text: str, kind: str) -> str:
        mark = f"<i>{_SIGNS[kind]}</i>" if kind in _SIGNS else ""
        return f'<span class="box k-{kind}"><code>{html.escape(text)}</code>{mark}</span>'

    def boxes(window: _Window) -> str:
        arrow = '<span class="then" aria-hidden="true">→</span>'
        return "".join(box(*each) for each in window[:-1]) + arrow + box(*window[-1])

    windows = list(_windows(recorded))
    kept = next((each for each in windows if each[-1][1] == "bonus"), None)
    cut = next((each for each in windows if each[1][1] == "accepted" and each[-1][1] == "corrected"), None)
    if kept is None or cut is None:
        whose, kept, cut = "", _KEPT, _CUT
    else:
        whose = " Both rounds are of the recorded run offered on the first tab."
    return f"""<figure class="two-rounds">
<div class="boxes">{boxes(kept)}</div>
<figcaption>All drafts kept: {len(kept) - 1} tokens from one pass of the target, the last a bonus.</figcaption>
<div class="boxes">{boxes(cut)}</div>
<figcaption>A draft refused: {sum(kind != "discarded" for _, kind in cut) - 2} tokens from a pass that took as
long.{whose}</figcaption> </figure>"""


def _windows(recorded: Sequence[Event]) -> Iterator[_Window]:
    pieces: dict[int, str] = {}
    for event in recorded:
        if isinstance(event, TokenTexts):
            pieces |= event.pieces
    before: Round | None = None
    for round_ in rounds(recorded, "speculative"):
        if before is not None and round_.drafted and round_.final is not None:
            drafts = [(label(pieces[token.id]), token.state) for token in round_.drafted]
            final = (label(pieces[round_.final.id]), round_.final.provenance)
            yield [(label(pieces[before.token_ids[-1]]), "known"), *drafts, final]
        before = round_


def _versions() -> str:
    names = ("gradio", "plotly", "numpy", "openvino", "torch", "transformers-neuronx", "neuronx-distributed-inference")
    parts = [f"Python {sys.version.split()[0]} on {platform.system()} {platform.machine()}"]
    parts += [f"{name} {known}" for name in names if (known := _version(name))]
    return ", ".join(parts) + "."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _models(session: Session | None) -> str:
    if session is None:
        return ""
    difference = session.target.row_difference
    promise = (
        "its logits do not depend on the window, so both arms print the same text at temperature 0"
        if session.bit_identical
        else "its logits depend slightly on the window, so near ties can fall either way"
    )
    if difference is not None:
        promise += f" (checked when it was loaded: one row's logits differed by {difference:.1g} at most)"
    cards = [session.target, *([] if session.draft is None else [session.draft])]
    rows = "".join(
        f"<li><b>{html.escape(card.name)}</b>: {card.num_parameters:,} parameters, {html.escape(card.dtype)}, "
        f"vocabulary {card.vocab_size:,}, context {card.n_positions:,} tokens</li>"
        for card in cards
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in session.notes)
    told = f"<p>Good to know of it:</p><ul>{notes}</ul>" if notes else ""
    return f"<h2>The loaded pair</h2><ul>{rows}</ul><p>Backend {html.escape(session.backend)}: {promise}.</p>{told}"
