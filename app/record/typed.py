"""Typed values from JSON types: the annotations of a dataclass are its schema. Stdlib only."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from app.errors import TraceError

# Resolving annotations takes longer than reading a file: a trace has thousands of alternatives.
_hints = functools.cache(typing.get_type_hints)


_LARGEST = 1e300
_INTEGERS = 2**63


def build(kind: Any, data: Any, where: str) -> Any:
    """A value of the dataclass `kind` from JSON types, every field checked against its annotation. where: names it in a
    fault.

    Fields that are absent keep their default. Raises TraceError naming the place.
    """
    if not isinstance(data, dict):
        raise _mismatch(where)
    hints = _hints(kind)
    names = {f.name for f in fields(kind)}
    if set(data) - names:
        raise TraceError(
            f"This trace has an unknown field {sorted(set(data) - names)[0]!r} in {where}; it was not "
            "written by this version."
        )
    try:
        return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()})
    except TypeError:
        raise _mismatch(where) from None


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        ok = isinstance(value, str | int) and value in args
    elif origin in (types.UnionType, typing.Union):  # `Literal[...] | None` is of the second kind
        if value is None and type(None) in args:
            return None
        kinds = [kind for kind in args if kind is not type(None)]
        return _value(kinds[0] if type(value) is kinds[0] else kinds[-1], value, where)
    elif origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(where)
        return tuple(_value(args[0], item, where) for item in value)
    elif origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(where)
        key: Callable[[str], Any] = _whole if args[0] is int else str
        try:
            return {key(name): _value(args[1], item, where) for name, item in value.items()}
        except ValueError:
            raise _mismatch(where) from None
    elif is_dataclass(hint):
        return build(hint, value, where)
    elif hint is float:
        # a float of JSON such as 1e999 is infinite
        ok = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    elif hint is int:
        ok = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INTEGERS
    else:
        ok = isinstance(value, hint) and not (hint is str and _strange(value, where))
    if not ok:
        raise _mismatch(where)
    return value


def _whole(name: str) -> int:
    """An id as the name of a JSON field. Raises ValueError."""
    if not (name.isascii() and name.isdecimal() and len(name) < 19):
        raise ValueError
    return int(name)


def _strange(text: str, where: str) -> bool:
    """Whether it holds half a character; in the texts of tokens, one that stands for no byte of a split one."""
    if text.isascii():
        return False
    bytes_may_be_split = where == "TokenTexts.pieces"
    return any(
        "\ud800" <= character <= "\udfff" and not (bytes_may_be_split and "\udc80" <= character <= "\udcff")
        for character in text
    )


def _mismatch(where: str) -> TraceError:
    return TraceError(f"This trace has a wrong value at {where}; it was changed or cut off, so export it again.")
