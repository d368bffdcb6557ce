"""The ``alphareq`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alphareq_lightning.commands.profile import add_profile_command
from alphareq_lightning.errors import AlphaReQError, OptionError
from alphareq_lightning.measure.pooling import POOLS
from alphareq_lightning.metrics.scores import SCORES
from alphareq_lightning.text import one_line

SOURCES = "checkpoints, run folders, record files, or the storage of a sweep"
STUDY = "which one, where the storage of a sweep holds several"
BROKEN_PIPE = 141
"""Exit code of a program whose reader has gone, as shells have it."""
LIGHTNING_SUBCOMMANDS = ("fit", "validate", "test", "predict")


def main(args: Sequence[str] | None = None) -> int:
    """Run ``alphareq``; errors of this package, and of files, end with code 2 and one line."""
    arguments = list(sys.argv[1:] if args is None else args)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # configs name classes of the user's own modules
    try:
        if arguments[:1] == ["train"]:  # LightningCLI parses the rest
            return train(arguments[1:])
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (AlphaReQError, OSError) as error:
        if isinstance(error, OSError) and arguments[:1] == ["train"]:
            raise  # of somebody's training, who wants to see where
        print(f"alphareq: {one_line(error)}", file=sys.stderr)
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
    from alphareq_lightning.commands.demo import run_demo

    run_demo(options.out, epochs=options.epochs, seed=options.seed)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    try:
        from alphareq_lightning.commands.sweep import sweep
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise OptionError(
            "a sweep needs its extra: pip install 'alphareq-lightning[sweep]'"
        ) from error
    return sweep(options)


def _posthoc(name: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from alphareq_lightning.commands import posthoc

        if os.getcwd() not in sys.path:  # a console script does not look for modules here
            sys.path.insert(0, os.getcwd())

        return int(getattr(posthoc, name)(options))

    return run


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
    sweep = commands.add_parser(
        "sweep", help="search hyperparameters: alphareq sweep --config configs/sweep_digits.yaml"
    )
    sweep.add_argument("--config", type=Path, required=True, help="what to sweep, as YAML")
    sweep.add_argument("--storage", help="a database URL, or a file that ends in .journal")
    sweep.add_argument("--trials", type=_positive, help="instead of the file's number")
    sweep.add_argument("--status", action="store_true", help="show how far it is; run nothing")
    sweep.add_argument("--json", action="store_true", help="print what came out for machines")
    sweep.set_defaults(run=_sweep)
    _add_rank(commands)
    _add_score(commands)
    _add_select(commands)
    _add_report(commands)
    add_profile_command(commands)
    return parser


def _add_rank(commands: Any) -> None:
    rank = commands.add_parser("rank", help="sort checkpoints by α: no data, no model, no labels")
    rank.add_argument("paths", nargs="+", help=SOURCES)
    rank.add_argument("--by", default="alpha", help="alpha, a score, or a logged metric")
    _add_target(rank)
    rank.add_argument("--min-r2", type=float, default=0.0, help="least R² of a line to believe")
    rank.add_argument("--study", help=STUDY)
    rank.add_argument("--layer", help="rank this layer's records")
    rank.add_argument("--fit-range", type=int, nargs=2, metavar="RANK", help="refit all on this")
    rank.add_argument("--force", action="store_true", help="rank mixed layers or windows too")
    rank.add_argument("--top", type=_positive, help="show this many; default: all")
    rank.add_argument("--json", action="store_true", help="for machines")
    rank.add_argument("--csv", action="store_true", help="for spreadsheets")
    rank.add_argument("--plot", type=Path, help="draw spectra and scores into this file")
    rank.set_defaults(run=_posthoc("rank"))


def _add_score(commands: Any) -> None:
    score = commands.add_parser("score", help="measure α of checkpoints or weights that have none")
    score.add_argument("paths", nargs="+", help="checkpoints, weight files, or folders of them")
    _add_model_and_data(score)
    score.add_argument("--layer", nargs="+", help="layer names; default: the penultimate layer")
    score.add_argument("--take", choices=("output", "input"), default="output")
    score.add_argument("--fit-range", type=int, nargs=2, metavar="RANK", help="default: auto")
    score.add_argument("--scores", nargs="*", default=["rankme"], help=", ".join(SCORES))
    score.add_argument(
        "--out", type=Path, default=Path("records.jsonl"), help="default: %(default)s"
    )
    score.set_defaults(run=_posthoc("score"))


def _add_select(commands: Any) -> None:
    select = commands.add_parser(
        "select", help="find the best model with few labelled readouts: the paper's algorithm"
    )
    select.add_argument("records", nargs="+", help=SOURCES)
    _add_model_and_data(select)
    select.add_argument("--study", help=STUDY)
    select.add_argument("--layer", help="use this layer's records")
    select.add_argument("--probe", choices=("logistic", "adam", "knn"), default="logistic")
    select.add_argument("--labels-per-class", type=_positive, help="train readouts on this few")
    select.add_argument("--top-k", type=_positive, default=5, help="default: %(default)s")
    select.add_argument(
        "--careful",
        action="store_true",
        help="one model at a time, and one more on each side of the interval: "
        "some more readouts, far fewer misses",
    )
    select.add_argument("--seed", type=int, default=0, help="of the order; default: %(default)s")
    select.add_argument(
        "--out", type=Path, default=Path("runs/select"), help="default: %(default)s"
    )
    select.set_defaults(run=_posthoc("select"))


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report", help="one HTML page: α against accuracy, the search replayed, spectra, a table"
    )
    report.add_argument("sources", nargs="+", help=SOURCES)
    report.add_argument("--study", help=STUDY)
    report.add_argument("--layer", help="show this layer's records")
    report.add_argument("--out", type=Path, default=Path("report.html"))
    report.add_argument("--title", default="Model selection by α", help="default: %(default)s")
    _add_target(report)
    report.add_argument("--top-k", type=int, help="default: that of the search, or 5")
    report.add_argument("--margin", type=int, help="default: that of the search, or 0")
    report.set_defaults(run=_posthoc("report"))


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", type=float, nargs="+", default=[1.0], help="the α to be near, or two ends"
    )


def _add_model_and_data(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("what the weights belong to, one of")
    model.add_argument("--config", type=Path, help="a LightningCLI config")
    model.add_argument(
        "--module", help="import path of a LightningModule; with --config its arguments are there"
    )
    model.add_argument("--model", help="a torchvision or timm model")
    parser.add_argument(
        "--trust", action="store_true", help="run code that a checkpoint wants to run"
    )
    data = parser.add_argument_group("which images")
    data.add_argument("--data", help="a folder, or 'digits'; default: the data of --config")
    data.add_argument("--image-size", type=_positive, help="default: 32, and 224 with --model")
    data.add_argument(
        "--statistics",
        choices=("cifar", "imagenet"),
        help="of the channels, to normalise; default: cifar, and imagenet with --model",
    )
    data.add_argument("--max-images", type=_positive, help="at most this many, chosen by chance")
    data.add_argument("--batch-size", type=_positive, default=256, help="default: %(default)s")
    data.add_argument("--num-workers", type=_not_negative, default=0, help="default: %(default)s")
    parser.add_argument("--pool", choices=POOLS, default="mean")
    parser.add_argument("--device", default="auto", help="default: a GPU if there is one")
    parser.add_argument("--json", action="store_true", help="for machines")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 1, got {text}")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text}")
    return value
