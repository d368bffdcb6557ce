"""``alphareq sweep``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from alphareq_lightning.sweep import SweepSummary, read_sweep, run_sweep, sweep_status
from alphareq_lightning.text import json_text


def sweep(
    *,
    config: Path,
    storage: str | None = None,
    trials: int | None = None,
    status: bool = False,
    console: Console | None = None,
) -> SweepSummary:
    """Search hyperparameters: alphareq sweep --config configs/sweep_digits.yaml.

    Started again, at the same time or after a crash, it joins the same study.

    Args:
        config: What to sweep, as YAML.
        storage: A database URL, or a file that ends in .journal.
        trials: Instead of the file's number.
        status: Show how far it is; run nothing.
        console: Told of every trial; the terminal by default.

    Example:
        alphareq sweep --config configs/sweep_digits.yaml --status

    Raises:
        AlphaReQError: If the file or the storage does not allow it.
    """
    wanted = read_sweep(config, storage=storage, trials=trials)
    try:
        return sweep_status(wanted) if status else run_sweep(wanted, console=console)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("the same command goes on from here") from error


def show(summary: SweepSummary, console: Console) -> None:
    """The best trials, and how far it is."""
    console.print(summary.table())


def as_json(summary: SweepSummary) -> str:
    """All of it as one object."""
    return json_text(summary.to_json(), indent=None)
