"""The options of a command, derived from the signature and the docstring of its function."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import Parameter, signature
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import Docstring, DocstringStyle, parse
from rich.console import Console

from alphareq_lightning.commands._terminal import terminal

READERS = {"json": "programs", "csv": "spreadsheets"}


def add_options(parser: argparse.ArgumentParser, command: ModuleType, function: str) -> None:
    """Make a parser that of a command: its options, their help, and how it is run."""
    call = getattr(command, function)
    about = _about(call)
    parser.description = _plain(f"{about.short_description} {about.long_description or ''}")
    parser.epilog = " ".join(f"Example: {e.snippet or e.description}" for e in about.examples)
    _add_parameters(parser, call)
    formats = {n: r for n, r in READERS.items() if hasattr(command, f"as_{n}")}
    only_one = parser.add_mutually_exclusive_group() if formats else parser
    for name, reader in formats.items():
        only_one.add_argument(f"--{name}", action="store_true", help=f"Print for {reader}")

    def run(options: argparse.Namespace) -> int:
        chosen = [name for name in formats if getattr(options, name)]
        console = terminal(stderr=bool(chosen))
        result = call(**_arguments(call, {**vars(options), "console": console}))
        if chosen:
            print(getattr(command, f"as_{chosen[0]}")(result))
        elif hasattr(command, "show"):
            command.show(result, console)
        return int(command.exit_code(result)) if hasattr(command, "exit_code") else 0

    parser.set_defaults(run=run)


def _about(call: Callable[..., Any]) -> Docstring:
    return parse(call.__doc__ or "", DocstringStyle.GOOGLE)


def _parameters(call: Callable[..., Any]) -> Iterator[tuple[Parameter, Any]]:
    """The parameters of a function or dataclass with their types, `None` left out of these."""
    hints = get_type_hints(call, include_extras=True)
    for parameter in signature(call).parameters.values():
        kind = hints[parameter.name]
        kinds = [k for k in get_args(kind) if k is not NoneType]
        yield parameter, kinds[0] if _is_union(kind) and len(kinds) == 1 else kind


def _arguments(call: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as arguments of the function."""
    return {
        p.name: kind(**_arguments(kind, options)) if _is_group(kind) else options[p.name]
        for p, kind in _parameters(call)
    }


def _add_parameters(parser: Any, call: Callable[..., Any]) -> None:
    """An option for each parameter; a dataclass among them is a group of options.

    A parameter without a default is positional, or a required option if it is keyword-only.
    """
    meaning = {text.arg_name: text.description or "" for text in _about(call).params}
    for parameter, kind in _parameters(call):
        name, default = parameter.name, parameter.default
        if _is_group(kind):
            title = _plain(_about(kind).short_description or "")
            _add_parameters(parser.add_argument_group(title), kind)
        elif kind is not Console:
            # Another parameter's name is its option here; argparse would format a "%".
            told = re.sub(r"``(\w+)``", lambda name: _flag(name[1]), meaning[name])
            settings = _reading(kind, default) | {"help": _plain(told).replace("%", "%%")}
            if get_origin(kind) is Annotated:
                names = get_args(kind)[1]
                settings["help"] += f": {', '.join(names() if callable(names) else names)}"
            if default is not Parameter.empty:
                settings["default"] = default
                if not (default is None or default is False or default == ()):
                    shown = " ".join(default) if isinstance(default, tuple) else default
                    settings["help"] += f" (default: {shown})"
            elif parameter.kind is Parameter.KEYWORD_ONLY:
                settings["required"] = True
            is_option = len(settings.keys() & {"default", "required"}) > 0
            parser.add_argument(_flag(name) if is_option else name, **settings)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _reading(kind: Any, default: Any) -> dict[str, Any]:
    """How `argparse` reads a value of this type."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _reading(inside[0], default)
    if _is_union(kind):
        nargs = "*" if isinstance(default, tuple) else "+"
        return {"type": inside[0], "nargs": nargs, "action": _OneOrSeveral}
    if origin in (list, Sequence):
        return {"type": inside[0], "nargs": "+" if default is Parameter.empty else "*"}
    if origin is tuple:
        names = ("FIRST", "LAST")
        return {"type": inside[0], "nargs": 2, "metavar": names, "action": _OneOrSeveral}
    if origin is Mapping:
        return {"type": _json_object, "metavar": "JSON"}
    if origin is Literal:
        return {"choices": inside}
    return {"action": "store_true"} if kind is bool else {"type": kind}


def _is_group(kind: Any) -> bool:
    return is_dataclass(kind)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


class _OneOrSeveral(argparse.Action):
    """A value alone as it is, several as a tuple."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else tuple(values))


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value


def _plain(text: str) -> str:
    """Words of a docstring without their marks, on one line."""
    return " ".join(text.split()).rstrip(".").replace("`", "")
