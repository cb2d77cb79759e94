"""Typed values from JSON types and back: the annotations of a dataclass are its schema. Stdlib only.

A reader is made once for each annotation: a trace has thousands of alternatives, and while a run is live each round is
read beside the next pass, on a processor that both may share.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from app.errors import TraceError

_LARGEST = 1e300
_INTEGERS = 2**63

_Reader = Callable[[Any], Any]


class _WrongError(Exception):
    """A value that is not its annotation's. names: of the fields it stands in, innermost first."""

    def __init__(self, unknown: str | None = None) -> None:
        """unknown: the field that does not exist, where that is the fault."""
        self.names: list[str] = []
        self.unknown = unknown


def build(kind: Any, data: Any, where: str) -> Any:
    """A value of the dataclass `kind` from JSON types, every field checked against its annotation. where: names it in a
    fault.

    Fields that are absent keep their default. Raises TraceError naming the place.
    """
    try:
        return _reader(kind, False)(data)
    except _WrongError as wrong:
        where = ".".join([where, *reversed(wrong.names)])
        if wrong.unknown is None:
            raise TraceError(
                f"This trace has a wrong value at {where}; it was changed or cut off, so export it again."
            ) from None
        raise TraceError(
            f"This trace has an unknown field {wrong.unknown!r} in {where}; it was not written by this version."
        ) from None


def plain(value: Any) -> Any:
    """What `build` reads: dataclasses as objects, tuples as lists."""
    kind: Any = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is tuple or kind is list:
        return [plain(item) for item in value]
    if kind is dict:
        return {key: plain(item) for key, item in value.items()}
    return {name: plain(getattr(value, name)) for name in _names(kind)}


_AS_THEY_ARE = frozenset({int, float, str, bool, type(None)})


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@functools.cache
def _reader(hint: Any, split: bool) -> _Reader:
    """Reads a value of an annotation. split: its texts may hold bytes of a split character."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return functools.partial(_one_of, args)
    if origin in (types.UnionType, typing.Union):  # `Literal[...] | None` is of the second kind
        return _either([kind for kind in args if kind is not type(None)], type(None) in args, split)
    if origin is tuple:
        return functools.partial(_many, _reader(args[0], split))
    if origin is dict:
        return functools.partial(_mapping, _whole if args[0] is int else str, _reader(args[1], split))
    if is_dataclass(hint):
        return _record(hint)
    if hint is str:
        return functools.partial(_text, split)
    return {float: _number, int: _integer, bool: _truth}[hint]


def _one_of(allowed: tuple[Any, ...], value: Any) -> Any:
    if not (isinstance(value, str | int) and value in allowed):
        raise _WrongError
    return value


def _either(kinds: list[Any], optional: bool, split: bool) -> _Reader:
    first, last = _reader(kinds[0], split), _reader(kinds[-1], split)

    def read(value: Any) -> Any:
        if optional and value is None:
            return None
        return first(value) if type(value) is kinds[0] else last(value)

    return read


def _many(read: _Reader, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _WrongError
    return tuple([read(item) for item in value])


def _mapping(key: Callable[[str], Any], read: _Reader, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _WrongError
    return {key(name): read(item) for name, item in value.items()}


def _record(kind: Any) -> _Reader:
    hints = typing.get_type_hints(kind)
    readers = {name: _reader(hints[name], (kind.__name__, name) == ("TokenTexts", "pieces")) for name in _names(kind)}

    def read(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _WrongError
        if not data.keys() <= readers.keys():
            raise _WrongError(min(data.keys() - readers.keys()))
        values, name = {}, ""
        try:
            for name, value in data.items():
                values[name] = readers[name](value)
        except _WrongError as wrong:
            wrong.names.append(name)
            raise
        try:
            return kind(**values)
        except TypeError:
            raise _WrongError from None

    return read


def _number(value: Any) -> Any:
    # a float of JSON such as 1e999 is infinite
    if type(value) is not float and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise _WrongError
    if not -_LARGEST <= value <= _LARGEST:
        raise _WrongError
    return value


def _integer(value: Any) -> Any:
    if type(value) is not int or not -_INTEGERS < value < _INTEGERS:
        raise _WrongError
    return value


def _truth(value: Any) -> Any:
    if not isinstance(value, bool):
        raise _WrongError
    return value


def _text(split: bool, value: Any) -> Any:
    if not isinstance(value, str) or not (value.isascii() or _whole_characters(value, split)):
        raise _WrongError
    return value


def _whole(name: str) -> int:
    """An id as the name of a JSON field."""
    if not (name.isascii() and name.isdecimal() and len(name) < 19):
        raise _WrongError
    return int(name)


def _whole_characters(text: str, split: bool) -> bool:
    """Whether it holds no half of a character; where bytes may be split, none that stands for no byte."""
    return not any(
        "\ud800" <= character <= "\udfff" and not (split and "\udc80" <= character <= "\udcff") for character in text
    )
