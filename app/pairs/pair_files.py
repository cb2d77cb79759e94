"""Pairs written down: a TOML file says what the command line's flags say.

target = "Llama-3.1-8B-Instruct"     # a path from this file's folder, or (torch) a Hub id
draft = "Llama-3.2-1B-Instruct"
backend = "torch"
dtype = "bf16"
n_positions = 8192
"""

from __future__ import annotations

import logging
import sys
import typing
from pathlib import Path
from typing import Any

from app.errors import PairError
from app.pairs.options import LIMITS, PairOptions
from app.wording import shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LOG = logging.getLogger(__name__)
_PATHS = ("target", "draft", "artifacts")


def read(path: Path) -> PairOptions:
    """The options in a file. Raises PairError naming the fault."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PairError(f"The pair file {path} cannot be read ({error.strerror}); check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PairError(f"The pair file {path} is not valid TOML ({error}); correct it.") from None
    kinds = typing.get_type_hints(PairOptions)
    options: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kinds:
            raise PairError(f"The pair file {path} has an unknown key {key!r}; known are {', '.join(kinds)}.")
        options[key] = _value(path, key, value, kinds[key])
    return PairOptions(**options)


def listed(directory: Path) -> dict[str, PairOptions]:
    """The pairs of a directory by the names of their files; one that cannot be read is left out, and the log says so.

    Raises PairError where none is left.
    """
    if not directory.is_dir():
        raise PairError(f"There is no directory {directory}; --pairs wants one that holds pair files (.toml).")
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise PairError(f"{directory} holds no pair file (.toml); write one, or leave --pairs out.")
    pairs, faults = dict[str, PairOptions](), list[PairError]()
    for file in files:
        try:
            pairs[shown(file.stem)] = read(file)
        except PairError as error:  # noqa: PERF203
            _LOG.warning("%s is not offered: %s", file.name, error)
            faults.append(error)
    if not pairs:
        raise faults[0]
    return pairs


def _value(path: Path, key: str, value: Any, kind: Any) -> Any:
    if key == "windows":
        if isinstance(value, list) and all(type(each) is int for each in value):
            return tuple(sorted(set(value)))
        raise PairError(f"The pair file {path} gives no list of whole numbers for windows; write windows = [2, 3, 5].")
    wanted: type = str if key in _PATHS else next(each for each in (str, int) if each in (kind, *typing.get_args(kind)))
    if type(value) is not wanted:
        what = "a text in quotes" if wanted is str else "a whole number"
        raise PairError(f"The pair file {path} gives {value!r} for {key}; write {what}.")
    if key in LIMITS and isinstance(value, int) and not LIMITS[key][0] <= value <= LIMITS[key][1]:
        least, most = LIMITS[key]
        raise PairError(f"The pair file {path} gives {value} for {key}; write a whole number from {least} to {most}.")
    if key not in _PATHS:
        return value
    written = Path(str(value)).expanduser()
    beside = path.parent / written
    # a Hub id has no file beside the pair file
    return beside if beside.exists() or key == "artifacts" else written
