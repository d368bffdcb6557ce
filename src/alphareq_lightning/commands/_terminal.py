"""What people see while a command works."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from alphareq_lightning.text import one_line

PIPE_WIDTH = 140
"""A pipe or file has no width: rich would cut tables at 80 columns."""
_T = TypeVar("_T")


def terminal(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: names from anywhere are no markup."""
    console = Console(stderr=stderr, markup=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def note(text: str) -> None:
    """Say something beside the output."""
    print(f"alphareq: {one_line(text)}", file=sys.stderr)


def tracked(items: Iterable[_T], what: str) -> Iterable[_T]:
    """The items, with a progress bar on the standard error of a terminal."""
    console = terminal(stderr=True)
    return track(items, what, console=console, transient=True, disable=not console.is_terminal)
