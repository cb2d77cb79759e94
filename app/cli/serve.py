"""`serve`: the page."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import flags, pool, texts
from app.errors import RequestError
from app.record.limits import MAX_TOKENS
from app.record.trace_files import open_trace

if TYPE_CHECKING:
    from app.hosting.pool import Pool
    from app.hosting.process import ProcessEngine

AUTH_VARIABLE = "PLAYGROUND_AUTH"
"""Holds USER:PASSWORD, as --auth, where nobody else sees it."""
MOST = {
    "max_tokens_limit": MAX_TOKENS,
    "run_seconds": 1e6,
    "max_waiting": 1e6,
    "round_seconds": 1e6,
    "memory_limit": 1e6,
}
"""What the limits of the page may be at most: more would mean nothing, or overflow a clock."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.pair_flags(parser)
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="offer the pair files (.toml) in DIR on the page")
    parser.add_argument(
        "--catalogue",
        action="store_true",
        help="offer the pairs of assets/pairs.toml on the page, too: whoever is there may have one fetched and loaded",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--acceptor", metavar="MODULE:NAME", help="offer a custom acceptor on the page")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for a login (others on this machine can read it)")
    parser.add_argument(
        "--auth-file", type=Path, metavar="FILE", help=f"ask for a login: USER:PASSWORD a line (or in {AUTH_VARIABLE})"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name the page answers to; repeatable"
    )
    parser.add_argument("--max-tokens-limit", type=int, metavar="N", help="tokens an answer may have at most")
    parser.add_argument("--run-seconds", type=float, metavar="S", help="seconds a run may take at most")
    parser.add_argument("--max-waiting", type=int, metavar="N", default=256, help="runs that may wait in line")
    parser.add_argument(
        "--round-seconds",
        type=float,
        metavar="S",
        default=120.0,
        help="an engine that is silent for longer is replaced",
    )
    parser.add_argument(
        "--memory-limit",
        type=float,
        metavar="GB",
        help="what the engine may hold (default: nine tenths of what is free)",
    )
    pool.add_arguments(parser)
    parser.add_argument("--replay", type=Path, metavar="FILE", help="show a recorded trace, without loading a model")


def main(options: argparse.Namespace) -> int:
    from app.backends.checkpoints.offered import Offered
    from app.ui.surroundings import put_aside

    with put_aside():
        from app.ui import serve
    from app.ui.desk import Desk, Limits
    from app.ui.line import Line
    from app.ui.readers import Readers

    pool.check(options)
    flags.follow(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the page is there
    address = serve.Address(options.host, options.port, logins(options), tuple(options.allow_host))
    for name, most in MOST.items():
        value = getattr(options, name)
        if value is not None and not 0 < value <= most:
            raise RequestError(f"--{name.replace('_', '-')} is {value:g}; choose a number above 0 and up to {most:g}.")
    serve.check_port(options.host, options.port)
    replay = None if options.replay is None else open_trace(options.replay)
    engine: ProcessEngine | Pool | None = None
    if replay is None:
        engine = flags.engine(options) if options.ray is None else pool.pool(options)
    limits = Limits(options.max_tokens_limit, options.run_seconds)
    engines = engine.engines if engine is not None else 1
    offered = Offered(flags.pair_options(options)) if options.catalogue and replay is None else None
    desk = Desk(Line(engines, length=options.max_waiting), Readers(), limits, catalogue=offered)
    serve.leave(serve.serve(engine, replay, address, desk))


def logins(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Who may come in, from the flags and the environment. Raises RequestError."""
    lines = [("--auth", options.auth)] if options.auth is not None else []
    if options.auth_file is not None:
        try:
            text = options.auth_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{options.auth_file} cannot be read ({error}); check the file of --auth-file."
            ) from None
        lines += [(str(options.auth_file), line) for line in text.splitlines() if line.strip()]
        if not lines:
            raise RequestError(f"{options.auth_file} names nobody; write USER:PASSWORD, one a line.")
    if os.environ.get(AUTH_VARIABLE):
        lines.append((AUTH_VARIABLE, os.environ[AUTH_VARIABLE]))
    return tuple(_credentials(*line) for line in lines)


def _credentials(where: str, text: str) -> tuple[str, str]:
    user, _, password = texts.text_of(text, where).strip().partition(":")
    if not user or not password:
        raise RequestError(f"{where} wants USER:PASSWORD, both not empty.")
    return user, password
