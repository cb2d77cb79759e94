"""A long text as a browser packs it, so that proxies that let little through let it through. No gradio here."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

from app.errors import TraceError
from app.record.trace import MAX_TRACE_BYTES

_GZIP = 16 + zlib.MAX_WBITS


def unpacked(sent: Any) -> Any:
    """The text of {"gzip": text, zipped, in base64}; anything else as it is. Raises TraceError.

    No more is unpacked than a trace may have, and a byte."""
    if not isinstance(sent, dict) or not isinstance(sent.get("gzip"), str):
        return sent
    try:
        zipped = base64.b64decode(sent["gzip"], validate=True)
        return zlib.decompressobj(_GZIP).decompress(zipped, MAX_TRACE_BYTES + 1).decode()
    except (ValueError, binascii.Error, zlib.error):
        raise TraceError("This was damaged on its way to the server; send it again.") from None
