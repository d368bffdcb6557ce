"""What the constructor of `AlphaMonitor` refuses, in words that name the option."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from alphareq_lightning.errors import OptionError


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `OptionError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise OptionError(f"expected {name} to be one of {choices}, got {value!r}")


def check_count(name: str, value: Any, at_least: int = 1) -> None:
    """Raise `OptionError` unless ``value`` is an integer and large enough."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < at_least:
        raise OptionError(f"expected an integer {name} >= {at_least}, got {name}={value!r}")


def check_prefix(prefix: Any) -> None:
    """Raise `OptionError` unless keys can begin with ``prefix``."""
    if not isinstance(prefix, str):
        raise OptionError(f"expected a string, got {prefix=}")
    if "/" in prefix:
        raise OptionError(f"'/' in a key makes folders out of checkpoint names, got {prefix=}")


def check_layer(layer: Any) -> str | list[str] | None:
    """One name, or several different ones as a list: a tuple means the same to checkpoints.

    Raises:
        OptionError: If it is neither, or names a layer twice.
    """
    if layer is None or isinstance(layer, str):
        return layer
    is_list = isinstance(layer, Sequence) and all(isinstance(name, str) for name in layer)
    if not is_list or not layer or len({in_key(name) for name in layer}) < len(layer):
        raise OptionError(f"expected a layer's name, or a list of different names, got {layer=}")
    return list(layer)


def in_key(label: str) -> str:
    """A layer's name as part of a key: dots would break checkpoint file names."""
    return label.replace(".", "_").replace(":", "_")
