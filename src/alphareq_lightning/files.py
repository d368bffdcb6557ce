"""The one way in which this package writes files, and reads files that anybody may have made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

import yaml

from alphareq_lightning.text import one_line

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What numbers, names and nesting of somebody else's file run into."""
NOT_TO_WAIT = getattr(os, "O_NONBLOCK", 0)
MOST_VALUES = 1_000_000
"""Of a config."""
LARGEST = 2**26
"""Bytes of a file that is read as a whole."""


@contextmanager
def written_beside(path: str | PathLike[str]) -> Iterator[Path]:
    """A path to write to, beside ``path``; in the end the file there takes its place.

    So ``path`` holds what it held or all that was to be written, whatever happens in between:
    an error, a full disk, a killed process. Folders are made; a link is followed. What is no
    file, such as ``/dev/stdout``, is written to as it is.

    Raises:
        OSError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new" / "settings.json"
        >>> with written_beside(path) as unfinished:
        ...     unfinished.write_text("{}")
        2
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('{}', 1)
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(target) and not os.path.isfile(target):
        # Of a pipe that nobody reads this says so, where a simple open waits for good.
        descriptor = os.open(target, os.O_WRONLY | NOT_TO_WAIT)
        try:
            yield target
        finally:
            os.close(descriptor)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{token_hex(4)}.part")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())  # a disk may say here only that it is full
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """A file to read, and nothing that is none: a pipe would wait for its other end for good.

    Raises:
        OSError: If it cannot be read, or is no file.
    """
    descriptor = os.open(path, os.O_RDONLY | NOT_TO_WAIT | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{os.fspath(path)!r} is no regular file")
    with open(descriptor, "rb") as file:
        yield file


def read_small(path: str | PathLike[str]) -> str:
    """The text of a file of a reasonable size.

    Raises:
        OSError: If it cannot be read, is no file, or is larger than 64 MiB.
        UnicodeDecodeError: If it is not UTF-8.
    """
    with opened(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(f"{os.fspath(path)!r} is larger than {LARGEST} bytes")
    return content.decode("utf-8-sig")


def read_yaml(path: str | PathLike[str]) -> Any:
    """What a YAML file says.

    Raises:
        OSError: If it cannot be read, or is no file.
        ValueError: If it is not YAML, or names itself so often that it has no end.
    """
    try:
        value = yaml.safe_load(read_small(path))
        size = num_values(value)
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if size > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    return value


def num_values(value: Any, known: dict[int, int] | None = None) -> int:
    """How many values there are in lists and dicts; an alias counts with all that it stands for.

    Args:
        value: What was read.
        known: Counts by `id`, of what was counted before.

    Raises:
        RecursionError: If it holds itself, or is nested too deep.

    Example:
        >>> num_values({"a": [1, 2], "b": []})
        7
    """
    known = {} if known is None else known
    if not isinstance(value, dict | list | tuple):
        return 1
    if id(value) not in known:
        items = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = sum((num_values(item, known) for item in items), 1)
    return known[id(value)]
