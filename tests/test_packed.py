"""Long texts as a browser packs them: taken as they were, bounded, and never a fault."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest

from app.errors import TraceError
from app.record.trace import MAX_TRACE_BYTES, read_text
from app.ui.packed import unpacked


def packed(content: bytes) -> dict[str, str]:
    return {"gzip": base64.b64encode(gzip.compress(content, 1)).decode()}


@pytest.mark.parametrize("asked", ["plain", None, 3, [], {}, {"gzip": 3}, {"other": "x"}])
def test_what_is_not_packed_stays(asked: Any) -> None:
    assert unpacked(asked) == asked


def test_what_is_packed_is_unpacked() -> None:
    assert unpacked(packed("tö\n".encode() * 9)) == "tö\n" * 9


def test_no_more_is_unpacked_than_a_trace_may_have() -> None:
    text = unpacked(packed(bytes(2 * MAX_TRACE_BYTES)))
    assert len(text) == MAX_TRACE_BYTES + 1
    with pytest.raises(TraceError, match="larger than"):
        read_text(text)


@pytest.mark.parametrize(
    "wrong",
    ["%", "AAAA", packed(b"x")["gzip"][:-8] + "AAAAAAA=", packed(b"\xff")["gzip"], "é"],
    ids=["no base64", "no gzip", "checksum", "no UTF-8", "no ASCII"],  # a gzip holds the time it was made
)
def test_damage_is_a_sentence(wrong: str) -> None:
    with pytest.raises(TraceError, match="send it again"):
        unpacked({"gzip": wrong})
