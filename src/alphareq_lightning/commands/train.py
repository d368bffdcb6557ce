"""``alphareq train``: LightningCLI."""

from __future__ import annotations

import sys
from collections.abc import Sequence

SUBCOMMANDS = ("fit", "validate", "test", "predict")


def train(arguments: Sequence[str]) -> int:
    """Train by a config: alphareq train --config configs/barlow_twins_digits.yaml.

    LightningCLI parses the arguments: ``fit`` unless another of its subcommands is named.
    """
    from lightning.pytorch.cli import LightningCLI

    arguments = list(arguments)
    if not arguments or arguments[0] not in (*SUBCOMMANDS, "-h", "--help"):
        arguments.insert(0, "fit")
    # LightningCLI warns when it is handed arguments beside a command line; so this is one.
    before, sys.argv = sys.argv, ["alphareq train", *arguments]
    try:
        LightningCLI()
    finally:
        sys.argv = before
    return 0
