"""The ``alphareq`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alphareq_lightning.errors import AlphaReQError
from alphareq_lightning.profile.command import add_profile_command

LIGHTNING_SUBCOMMANDS = ("fit", "validate", "test", "predict")


def main(args: Sequence[str] | None = None) -> int:
    """Run ``alphareq``; errors of this package end with exit code 2 and their message alone."""
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        if arguments[:1] == ["train"]:  # LightningCLI parses the rest
            return train(arguments[1:])
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except AlphaReQError as error:
        print(f"alphareq: {error}", file=sys.stderr)
        return 2


def train(arguments: Sequence[str]) -> int:
    """Hand over to LightningCLI: ``fit`` unless another of its subcommands is named."""
    from lightning.pytorch.cli import LightningCLI

    arguments = list(arguments)
    if not arguments or arguments[0] not in (*LIGHTNING_SUBCOMMANDS, "-h", "--help"):
        arguments.insert(0, "fit")
    # LightningCLI warns when it is handed arguments beside a command line; so this is one.
    before, sys.argv = sys.argv, ["alphareq train", *arguments]
    try:
        LightningCLI()
    finally:
        sys.argv = before
    return 0


def _demo(options: argparse.Namespace) -> int:
    from alphareq_lightning.demo import run_demo

    run_demo(options.out, epochs=options.epochs, seed=options.seed)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alphareq", description="α-ReQ for PyTorch Lightning: label-free model selection."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser(
        "train",
        help="train by a config: alphareq train --config configs/barlow_twins_digits.yaml",
        add_help=False,
    )
    demo = commands.add_parser(
        "demo", help="train Barlow Twins on digits, watch α, and check the checkpoint it chose"
    )
    demo.add_argument("--epochs", type=_positive, default=20, help="default: %(default)s")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demo.set_defaults(run=_demo)
    add_profile_command(commands)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 1, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
