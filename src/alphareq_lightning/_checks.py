"""What the constructor of `AlphaMonitor` refuses, in words that name the option."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

from alphareq_lightning.errors import OptionError

FIRST_LOG_STEP = 10
"""With ``at_steps="log"``, the first measurement after the untrained network; then twice, …"""


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `OptionError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise OptionError(f"expected {name} to be one of {choices}, got {value!r}")


def check_count(name: str, value: Any, at_least: int = 1) -> None:
    """Raise `OptionError` unless ``value`` is an integer and large enough."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < at_least:
        raise OptionError(f"expected an integer {name} >= {at_least}, got {name}={value!r}")


def check_steps(steps: Any) -> tuple[int, ...] | Literal["log"]:
    """Numbers of optimizer steps as a tuple, or ``"log"``.

    Raises:
        OptionError: If it is neither, or one of them is negative.
    """
    if steps == "log":
        return "log"
    is_list = isinstance(steps, Sequence) and not isinstance(steps, str)
    if not is_list:
        raise OptionError(f"expected 'log' or a list of steps, got at_steps={steps!r}")
    for step in steps:
        check_count("at_steps", step, at_least=0)
    return tuple(map(int, steps))


def passes_step(steps: tuple[int, ...] | Literal["log"], before: int, now: int) -> bool:
    """Whether one of the steps lies past ``before`` and not past ``now``.

    Example:
        >>> [step for step in range(100) if passes_step("log", step - 1, step)]
        [0, 10, 20, 40, 80]
    """
    if steps != "log":
        return any(before < step <= now for step in steps)
    return (
        before < 0 <= now
        or (now // FIRST_LOG_STEP).bit_length() > (max(before, 0) // FIRST_LOG_STEP).bit_length()
    )


def check_prefix(prefix: Any) -> None:
    """Raise `OptionError` unless keys can begin with ``prefix``."""
    if not isinstance(prefix, str):
        raise OptionError(f"expected a string, got {prefix=}")
    if "/" in prefix:
        raise OptionError(
            f"'/' in a key makes folders out of checkpoint names, got {prefix=}; write "
            f"{prefix.replace('/', '_')!r}"
        )


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


def key_end(index: int, label: str) -> str:
    """What the keys of a monitor's layer end in: nothing for the first, its name for others."""
    return "" if index == 0 else f"_{in_key(label)}"
