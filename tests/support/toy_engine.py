"""Recipes of toy engines, for engines in processes of their own; and acceptors that do what users' code may do."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from app.acceptance import Verdict
from app.backends.toy import toy_pair
from app.engine.pair import Pair
from app.engine.session import Session
from app.hosting.recipe import Recipe
from app.record.trace import Event, Request


def recipe(acceptor: str | None = None, pairs: int = 1, told: str = "", **options: Any) -> Recipe:
    """acceptor: the name of a class below. pairs: how many toy pairs are listed. told: a file that every prompt is
    written to. options: of `toy_pair`."""
    arguments = {"acceptor": acceptor, "pairs": pairs, "told": told, "options": options}
    return Recipe("tests.support.toy_engine:session", arguments)


def session(acceptor: str | None, pairs: int, told: str, options: dict[str, Any], chosen: str | None = None) -> Session:
    from app.engine.custom_acceptor import load_custom

    custom = None if acceptor is None else load_custom(f"tests.support.toy_engine:{acceptor}")
    listed = {} if pairs == 1 else {f"toy {number}": _Listed(f"toy {number}", options) for number in range(pairs)}
    session = _Told if told else Session
    made = session(_pair(chosen or "toy 0", options), custom, listed, chosen)
    if isinstance(made, _Told):
        made.file = Path(told)
    return made


class _Told(Session):
    """Writes down what it is asked."""

    file: Path

    def run(self, request: Request, **options: Any) -> Generator[Event, None, None]:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{self.chosen}: {request.prompt}\n")
        return super().run(request, **options)


def _pair(name: str, options: dict[str, Any]) -> Pair:
    target, draft, tokenizer = toy_pair(**{"vocab_size": 259, **options})
    return Pair(name, "toy", target, draft, tokenizer, stays="It stays." if name == "toy 2" else "")


class _Listed:
    stays = ""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name, self._options = name, options

    def prepare(self, freed: int = 0) -> Callable[[], Pair]:
        if self._name == "toy 3":
            os._exit(3)
        return lambda: _pair(self._name, self._options)


class _Faulty:
    """An acceptor that keeps everything until its third round."""

    lossless = False

    def __init__(self) -> None:
        self._rounds = 0

    def __call__(self, draft_ids: Any, draft_probs: Any, target_probs: Any, noise: Any) -> Verdict:
        self._rounds += 1
        if self._rounds == 3:
            self.fail()
        return Verdict(len(draft_ids), int(np.argmax(target_probs[-1])))

    def fail(self) -> None:
        raise NotImplementedError


class Crashing(_Faulty):
    """Crashes the process."""

    def fail(self) -> None:
        ctypes.string_at(0)


class Leaving(_Faulty):
    """Raises SystemExit."""

    def fail(self) -> None:
        raise SystemExit(3)


class Interrupting(_Faulty):
    """Raises KeyboardInterrupt."""

    def fail(self) -> None:
        raise KeyboardInterrupt


class Hanging(_Faulty):
    """Never returns."""

    def fail(self) -> None:
        while True:
            time.sleep(0.01)


class Greedy(_Faulty):
    """Takes all the memory there is."""

    def fail(self) -> None:
        np.empty(5 * 10**9)  # 40 GB, none of which is touched


class Sharing(_Faulty):
    """Takes memory that no limit of the process counts, little by little: 2 GB of it, where nothing ends it."""

    def fail(self) -> None:
        held = mmap.mmap(-1, 2 * 10**9)
        for start in range(0, len(held), 1 << 20):
            held[start : start + (1 << 20)] = bytes(1 << 20)
            time.sleep(0.001)
