"""The command line's flags as Markdown. `python -m tests.support.flags_reference` writes them into
app/cli/README.md."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from app import places
from app.__main__ import parser

FILE = Path(__file__).resolve().parents[2] / "app" / "cli" / "README.md"
BEGIN, END = "<!-- flags: begin -->", "<!-- flags: end -->"


def commands(root: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Every command that takes flags, those below others too: its name, its parser, its purpose."""
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            purposes = {each.dest: each.help or "" for each in action._choices_actions}
            for word, command in action.choices.items():
                full = f"{name} {word}".strip()
                yield full, command, purposes[word]
                yield from commands(command, full)


def flags(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its own arguments, without --help and what lies below it."""
    left_out = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in command._actions if not isinstance(action, left_out)]


def reference() -> str:
    """A table for each command."""
    parts = []
    for name, command, purpose in commands(parser()):
        rows = [f"| {_usage(action)} | {_words(action.help or '')} | {_default(action)} |" for action in flags(command)]
        if rows:
            parts.append("\n".join([f"### {name}", "", f"{purpose[:1].upper()}{purpose[1:]}.", "", *HEAD, *rows]))
    return "\n\n".join(parts)


HEAD = ("| argument | says | default |", "| --- | --- | --- |")


def _usage(action: argparse.Action) -> str:
    name = action.option_strings[0] if action.option_strings else action.dest.upper()
    if action.nargs == 0:
        return f"`{name}`"
    value = ""
    if action.choices is not None:
        value = " or ".join(map(str, action.choices))
    elif action.option_strings:
        value = str(action.metavar or action.dest.upper())
    return f"`{f'{name} {value}'.strip()}`"


def _words(text: str) -> str:
    return text.replace("|", "\\|").replace("%%", "%")


def _default(action: argparse.Action) -> str:
    if action.required:
        return "needed"
    default = action.default
    if default is None or default is False or default in (argparse.SUPPRESS, ""):
        return ""
    if isinstance(default, tuple | list):
        return ",".join(map(str, default))
    if isinstance(default, Path):
        for folder in (places.ASSETS.parent, places.home()):
            if default.is_relative_to(folder):
                return f"`{default.relative_to(folder)}`"
    return str(default)


def written(text: str) -> str:
    """The text with the reference between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text(encoding="utf-8")), encoding="utf-8")
