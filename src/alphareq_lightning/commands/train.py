"""``alphareq train``: LightningCLI."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from alphareq_lightning.errors import AlphaReQError, OptionError

EXAMPLE = "alphareq train --config configs/barlow_twins_digits.yaml"
SUBCOMMANDS = ("fit", "validate", "test", "predict")


def train(arguments: Sequence[str]) -> int:
    """Train by a config.

    LightningCLI parses the arguments: ``fit`` unless another of its subcommands is named.

    Raises:
        AlphaReQError: If it refuses them.
    """
    from lightning.pytorch.cli import LightningCLI

    from alphareq_lightning._lightning import parser_reason

    arguments = list(arguments)
    if not arguments or arguments[0] not in (*SUBCOMMANDS, "-h", "--help"):
        arguments.insert(0, "fit")
    # LightningCLI warns when it is handed arguments beside a command line; so this is one.
    before, sys.argv = sys.argv, ["alphareq train", *arguments]
    told: dict[str, Any] = {"exit_on_error": False}  # or it prints all options of all classes
    shown = {"description": "Train by a config, with LightningCLI", "epilog": f"Example: {EXAMPLE}"}
    try:
        LightningCLI(parser_kwargs={**told, **shown, **dict.fromkeys(SUBCOMMANDS, told)})
    except ArgumentError as error:
        reason = parser_reason(error)
        above = str(error).partition(reason)[0]  # names the key, part by part
        key = ".".join(re.findall(r'Parser key "([^"]+)"', above))
        raise OptionError(
            f"{f'{key}: ' if key else ''}{reason}; see alphareq train --help"
        ) from error
    except ValueError as error:  # jsonargparse's, of a class that refuses what it was given
        if isinstance(error.__cause__, AlphaReQError):
            raise error.__cause__ from None
        raise
    finally:
        sys.argv = before
    return 0
