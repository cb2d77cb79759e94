"""The acceptor protocol under its public name: what a file given by `--acceptor module:Name` imports."""

from app.engine.acceptance import ACCEPTORS, Acceptor, Judgement, TokenWise, Verdict

__all__ = ["ACCEPTORS", "Acceptor", "Judgement", "TokenWise", "Verdict"]
