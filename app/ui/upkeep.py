"""What the page's process keeps of every visitor and every run, without what this page never asks for."""

from __future__ import annotations

import ctypes
from collections import ChainMap
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.blocks import BlocksConfig
from gradio.renderable import Renderable
from gradio.state_holder import SessionState

SESSIONS = 2048
"""Visitors of whom Gradio remembers which knobs they were given; every call of a program is one as well."""

_described = BlocksConfig.config_for_block
_begun = SessionState.__init__
_NOTHING: Any = MappingProxyType({})
_MMAP_THRESHOLD, _LARGE = -3, 64 * 1024
"""mallopt's name for the size from which a block is the system's own, and that size in bytes."""


def _for_the_page(_id: int, rendered_ids: list[int], block: Any, renderable: Renderable | None = None) -> Any:
    """What Gradio says of a block where the page is described; nothing where a session is: it lays out no block."""
    return _described(_id, rendered_ids, block, renderable) if rendered_ids or renderable else _NOTHING


def _begin(session: SessionState, blocks: gr.Blocks) -> None:
    """A session as Gradio begins it, but of the page's blocks it holds those alone that are changed for it."""
    _begun(session, blocks)
    session.config_values = {}
    session.blocks_config.blocks = ChainMap({}, blocks.default_config.blocks)  # type: ignore[assignment]


def lighten(page: gr.Blocks) -> None:
    """Let Gradio keep less, in this process.

    Every session begins with a description of all blocks, from which links into a session are made: there are none
    here. It took the server's loop 27 ms and 190 kB for each visitor, so that two hundred at once kept a page waiting
    for 5 s. After every run the table of all runs is folded by pandas, for a view that is not served here either.
    """
    BlocksConfig.config_for_block = staticmethod(_for_the_page)  # type: ignore[method-assign]
    SessionState.__init__ = _begin  # type: ignore[method-assign, assignment]
    page._queue.ANALYTICS_MAX_EVENTS = 0


def free_large_blocks() -> None:
    """Have the C library give large blocks back as they are freed, in this process, where it can be told (glibc).

    It raises the size of those by itself as it goes, and keeps smaller ones for reuse: pages and traces of all sizes
    then left holes between what stays, so that a thousand runs left the process 60 MiB larger with nothing in them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
