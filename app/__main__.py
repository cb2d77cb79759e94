"""The playground for speculative sampling: one command a line below, each with --help.

Every command exits 0, or 2 with one sentence on standard error when what was asked for cannot work.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from app.bench import cli as bench
from app.cli import cache, export, pairs, plan, run, serve, setup, sweep, texts
from app.distill import cli as distill
from app.errors import BAD_INPUT, PlaygroundError
from app.places import COMMAND

INTERRUPTED = 130
DEFAULT = "serve"
"""The command where only its flags are given, or nothing."""
COMMANDS = {
    "serve": (serve, "the page (default)"),
    "run": (run, "one request, no browser"),
    "sweep": (sweep, "which window k is best: measured beside predicted"),
    "pairs": (pairs, "which pairs there are and what they need; which draft fits a target"),
    "plan": (plan, "size a pair for AWS Neuron"),
    "distill": (distill, "make and evaluate a draft for a target"),
    "bench": (bench, "measure the embedded pair"),
    "export": (export, "a trace file to one self-contained HTML page"),
    "cache": (cache, "what is kept on disk of models; clear it"),
    "setup": (setup, "fetch the embedded target, and do nothing else"),
}
"""Each a module with `add_arguments(parser)` and `main(arguments) -> exit code`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage and a message."""
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, DEFAULT)
    texts.print_anything()
    options = parser().parse_args(words)
    try:
        code = int(options.command(texts.checked(options)))
        texts.written()
        return code
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read us has seen enough
        texts.give_up_output()
        return 0
    except OSError as error:
        if error.errno not in texts.FULL or error.filename is not None:
            raise
        texts.give_up_output()
        print(f"The output cannot be written ({error.strerror}); send it elsewhere.", file=sys.stderr)
        return BAD_INPUT


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    root = _Parser(prog=COMMAND, description="The playground for speculative sampling.")
    commands = root.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        module.add_arguments(command)
        command.set_defaults(command=module.main)
    return root


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    raise SystemExit(main())
