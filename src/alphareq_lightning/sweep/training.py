"""One trial's training, as LightningCLI builds it from the config and some dotted keys."""

from __future__ import annotations

import difflib
import json
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from pydoc import locate
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningCLI
from optuna.distributions import BaseDistribution, CategoricalDistribution

from alphareq_lightning._lightning import parser_reason
from alphareq_lightning.callbacks import AlphaMonitor
from alphareq_lightning.errors import AlphaReQError, OptionError
from alphareq_lightning.load.sources import from_datamodule
from alphareq_lightning.sweep.config import Params, Sweep


class TrialCLI(LightningCLI):
    """LightningCLI that keeps what a trial writes in the trial's own folder."""

    def before_instantiate_classes(self) -> None:
        """Move loggers and checkpoints: workers that share a folder would share version numbers.

        A trial saves its trained model itself, so there are other checkpoints only where the
        config asks for them.
        """
        trainer = self.config.trainer
        if trainer.enable_checkpointing is None and not _keeps_checkpoints(trainer.callbacks):
            trainer.enable_checkpointing = False
        for part in (*_listed(trainer.logger), *_listed(trainer.callbacks)):
            options = getattr(part, "init_args", None)
            for name in ("save_dir", "dirpath"):
                if options is not None and options.get(name) is not None:
                    options[name] = trainer.default_root_dir


class ParsedCLI(TrialCLI):
    """Parses and builds nothing."""

    def instantiate_classes(self) -> None:
        """Stay with the parsed config."""


def build_training(
    sweep: Sweep, params: Params, folder: Path, kind: type[LightningCLI] = TrialCLI
) -> LightningCLI:
    """Model, data and Trainer of a trial; nothing runs yet.

    Args:
        sweep: Where the config and the overrides are.
        params: What the trial varies, by dotted key.
        folder: Where everything of the trial goes.
        kind: `ParsedCLI` to check values only.

    Raises:
        OptionError: If the config refuses a key or a value.
    """
    arguments = {**sweep.overrides, **params, "trainer.default_root_dir": str(folder)}
    # LightningCLI warns when it is handed arguments beside a command line; so there is none.
    before, sys.argv = sys.argv, sys.argv[:1]
    try:
        return kind(
            args=["--config", str(sweep.train), *map(argument, arguments, arguments.values())],
            run=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"enable_progress_bar": False, "enable_model_summary": False},
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        )
    except ArgumentError as error:
        raise OptionError(parser_reason(error)) from error
    finally:
        sys.argv = before


def argument(key: str, value: Any) -> str:
    """A dotted key as an argument of LightningCLI.

    Example:
        >>> argument("model.lambd", 0.1), argument("data.folder", "images")
        ('--model.lambd=0.1', '--data.folder=images')
    """
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def check_training(sweep: Sweep) -> None:
    """Find out before the first trial whether trials can be trained, measured and read out.

    Raises:
        OptionError: If the config refuses a key or a value, or its trainings cannot be trials.
        DataError: If there are no labels to read out with.
    """
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_keys(sweep, Path(folder))
        try:
            cli = build_training(sweep, {}, Path(folder))
            find_monitor(cli.trainer)
            from_datamodule(cli.datamodule).labelled()
        except AlphaReQError:
            raise
        except Exception as error:  # whatever somebody's classes raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise OptionError(f"{sweep.train} cannot be built: {reason}") from error
    if cli.trainer.world_size > 1:
        raise OptionError(
            f"a trial trains in one process, got {cli.trainer.world_size}; "
            "set trainer.devices: 1 and start a worker for each device instead"
        )


def find_monitor(trainer: Any) -> AlphaMonitor:
    """The callback that measures α.

    Raises:
        OptionError: If there is none.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, AlphaMonitor):
            return callback
    raise OptionError("the config has no alphareq_lightning.AlphaMonitor among its callbacks")


def _check_keys(sweep: Sweep, folder: Path) -> None:
    try:
        cli = build_training(sweep, {}, folder, ParsedCLI)
    except OptionError as error:
        raise OptionError(f"{sweep.train} with its overrides: {error}") from error
    for key, distribution in sweep.space.items():
        for value in _ends(distribution):
            try:
                build_training(sweep, {key: value}, folder, ParsedCLI)
            except OptionError as error:
                hint = _near(key, cli.config)
                raise OptionError(f"space: {key}: {error}{hint}") from error


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return (getattr(distribution, "low", None), getattr(distribution, "high", None))


def _near(key: str, config: Mapping[str, Any] | Namespace) -> str:
    known = [name.replace(".init_args", "") for name in config.keys()]  # noqa: SIM118
    if key in known:
        return ""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _keeps_checkpoints(callbacks: Any) -> bool:
    kinds = [locate(str(getattr(part, "class_path", ""))) for part in _listed(callbacks)]
    return any(isinstance(kind, type) and issubclass(kind, Checkpoint) for kind in kinds)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
