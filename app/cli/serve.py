"""`serve`: the page."""

from __future__ import annotations

import argparse
from pathlib import Path

from app.cli import flags
from app.errors import RequestError
from app.record.trace_files import open_trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.pair_flags(parser)
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="offer the pair files (.toml) in DIR on the page")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--acceptor", metavar="MODULE:NAME", help="offer a custom acceptor on the page")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for a login")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="show a recorded trace, without loading a model")


def main(options: argparse.Namespace) -> int:
    from app.ui import serve

    auth = None if options.auth is None else _credentials(options.auth)
    serve.check_port(options.host, options.port)
    replay = None if options.replay is None else open_trace(options.replay)
    session = None if replay is not None else flags.session(options, options.pairs)
    serve.serve(session, replay, host=options.host, port=options.port, auth=auth)
    return 0


def _credentials(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not user or not password:
        raise RequestError("--auth wants USER:PASSWORD, both not empty.")
    return user, password
