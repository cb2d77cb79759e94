"""The command line as a test calls it."""

from __future__ import annotations

import pytest

from app.__main__ import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that the command line says as it refuses these, by exit code 2."""
    try:
        code: object = main(list(arguments))
    except SystemExit as ended:  # argparse's way
        code = ended.code
    message = capsys.readouterr().err
    assert code == 2
    assert message.count("\n") == 1
    return message
