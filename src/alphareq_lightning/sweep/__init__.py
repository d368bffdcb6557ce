"""Sweeps over configs on Optuna that pay labelled readouts only where α is promising."""

from alphareq_lightning.errors import OptionError

try:
    import optuna  # noqa: F401
except ModuleNotFoundError as error:
    raise OptionError("a sweep needs its extra: pip install 'alphareq-lightning[sweep]'") from error

from alphareq_lightning.sweep.config import Sweep, read_sweep
from alphareq_lightning.sweep.pruner import AlphaIntervalPruner
from alphareq_lightning.sweep.results import (
    SweepSummary,
    search_options,
    study_configurations,
    study_records,
)
from alphareq_lightning.sweep.storage import reading
from alphareq_lightning.sweep.study import load_study, run_sweep, sweep_status

__all__ = [
    "AlphaIntervalPruner",
    "Sweep",
    "SweepSummary",
    "load_study",
    "read_sweep",
    "reading",
    "run_sweep",
    "search_options",
    "study_configurations",
    "study_records",
    "sweep_status",
]
