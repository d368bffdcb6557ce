"""The ``alphareq`` command."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import alphareq_lightning.commands as room
from alphareq_lightning._version import __version__
from alphareq_lightning.commands.train import train
from alphareq_lightning.errors import AlphaReQError, OptionError
from alphareq_lightning.text import nearest, one_line

ALL = "--all"
"""Stands for every command, where their options are all wanted."""
INTERRUPTED, BROKEN_PIPE = 130, 141
"""Exit codes of a program that Ctrl-C ended, and of one whose reader has gone, as of shells."""


def main(args: Sequence[str] | None = None) -> int:
    """Run ``alphareq``; errors of this package, and of files, end with code 2 and one line."""
    arguments = list(sys.argv[1:] if args is None else args)
    is_training = arguments[:1] == ["train"]
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # configs and --module name classes of the user's own modules
    try:
        if is_training:
            return train(arguments[1:])
        chosen = next(iter(arguments), None)
        parser = command_parser(chosen)
        if chosen is None:
            parser.print_help(sys.stderr)
            return 2
        options = parser.parse_args(arguments)
        return int(options.run(options))
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as error:
        print(f"alphareq: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return INTERRUPTED
    except (AlphaReQError, OSError) as error:
        if isinstance(error, OSError) and is_training:
            raise  # of somebody's training, who wants to see where
        print(f"alphareq: {one_line(error)}", file=sys.stderr)
        return 2


def command_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser of ``alphareq``, with the options of one command only: others are not imported.

    Raises:
        OptionError: If there is no such command.
    """
    parser = argparse.ArgumentParser(
        prog="alphareq", description="α-ReQ for PyTorch Lightning: label-free model selection."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--print-completion", action=_Completion, help="Print what completes commands in a shell"
    )
    choices = parser.add_subparsers(required=True, metavar="command")
    commands = list(_commands())
    names = [name for name, _, _ in commands]
    if chosen is not None and not chosen.startswith("-") and chosen not in names:
        there = ", ".join(names)
        raise OptionError(f"no command {chosen!r}; there are: {there}{nearest(chosen, names)}")
    for name, function, summary in commands:
        command = choices.add_parser(name, help=summary)
        if chosen in (name, ALL) and name != "train":  # whose options are LightningCLI's
            from alphareq_lightning.commands._options import add_options

            add_options(command, import_module(f"{room.__name__}.{name}"), function)
    return parser


class _Completion(argparse.Action):
    """Prints a script for a shell, and ends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, choices=("bash", "zsh", "tcsh"))

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            import shtab
        except ModuleNotFoundError as error:
            raise OptionError(f"{option_string} needs shtab: pip install shtab") from error
        print(shtab.complete(command_parser(ALL), values))
        parser.exit()


def _commands() -> Iterator[tuple[str, str, str]]:
    """Name, function and summary of each command; nothing is imported to tell them."""
    for file in sorted(file for folder in room.__path__ for file in Path(folder).glob("*.py")):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        functions = (node for node in body if isinstance(node, ast.FunctionDef))
        found = next((node for node in functions if not node.name.startswith("_")), None)
        if found is not None and not file.stem.startswith(("_", "main")):
            summary = str(ast.get_docstring(found)).partition("\n")[0]
            yield file.stem, found.name, summary.rstrip(".")
