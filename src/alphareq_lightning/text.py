"""Names and values that came from somewhere else, as text that is safe to show."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

LONGEST_MESSAGE = 2000
"""Characters; no message of this package needs more."""
SHOWN_ITEMS = 4
SHOWN_CHARACTERS = 80
LARGEST_SHOWN = 2**64


def printable(text: str) -> str:
    r"""The text with everything that a terminal would obey, or cannot show, as an escape.

    Control characters, line breaks, marks that turn the direction of writing, and the bytes of
    file names that are not UTF-8.

    Example:
        >>> printable("run\x1b[2J/α=1.ckpt")
        'run\\x1b[2J/α=1.ckpt'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def without_folder(name: str, folder: str) -> str:
    """A name without the folder that it begins with; whole where the folder is none.

    Example:
        >>> without_folder("/runs/a/x.ckpt", "/runs"), without_folder("/runs/a/x.ckpt", "")
        ('a/x.ckpt', '/runs/a/x.ckpt')
    """
    return name.removeprefix(f"{folder}/") if folder else name


def as_json(value: Any) -> Any:
    """What JSON gives back of a value; numbers that it does not know become `None`.

    Example:
        >>> as_json({"a": (1, float("nan")), 2: float("inf")})
        {'a': [1, None], '2': None}
    """
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def json_text(value: Any, indent: int | None = 1) -> str:
    r"""JSON for people and programs: readable, and without anything that a terminal would obey.

    As `as_json` otherwise.

    Example:
        >>> json_text(["α\x9b2J", float("nan")], indent=None)
        '["α\\u009b2J", null]'
    """
    text = json.dumps(as_json(value), indent=indent, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def shown(value: Any, depth: int = 2) -> str:
    """A value in a message: like its `repr`, but of a bounded size whatever the value holds.

    A list that holds another twice, forty deep, takes 800 bytes in a file and a year to print.

    Example:
        >>> shown([0, [[1, 2, 3], {}], None, "a", 1, 2])
        "[0, [a list of 3, {}], None, 'a', and 2 more]"
    """
    if isinstance(value, str | bytes):
        head = value[:SHOWN_CHARACTERS]
        return printable(repr(head)) + ("" if len(value) == len(head) else "...")
    if isinstance(value, int) and abs(value) > LARGEST_SHOWN:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if not isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__}"
    if depth == 0 and value:
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, dict):
        first = islice(value.items(), SHOWN_ITEMS)
        items = [f"{shown(k, depth - 1)}: {shown(item, depth - 1)}" for k, item in first]
    else:
        items = [shown(item, depth - 1) for item in value[:SHOWN_ITEMS]]
    if len(value) > SHOWN_ITEMS:
        items.append(f"and {len(value) - SHOWN_ITEMS} more")
    brackets = {dict: "{}", tuple: "()"}.get(type(value), "[]")
    return f"{brackets[0]}{', '.join(items)}{brackets[1]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: the known name that a wrong one was meant to be, if there is one near.

    Example:
        >>> nearest("rnak", ["rank", "report"]), nearest("x", ["rank"])
        ("; did you mean 'rank'?", '')
    """
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def one_line(error: object) -> str:
    r"""The message of an error in one printable line of a bounded length; its kind if it has none.

    Example:
        >>> one_line(ValueError("first\n  second"))
        'first second'
    """
    text = str(error)[: 2 * LONGEST_MESSAGE]
    line = printable(" ".join(text.split())) or type(error).__name__
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."


def first_line(error: object) -> str:
    r"""As `one_line`, of the first line only: what other libraries add below is advice.

    Example:
        >>> first_line(ValueError("first\n  second"))
        'first'
    """
    return one_line(str(error).strip().partition("\n")[0] or type(error).__name__)
