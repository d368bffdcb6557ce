"""Which model is best: ranking and search."""

from alphareq_lightning.selection.answer import Criterion, Verdict
from alphareq_lightning.selection.budgeted_search import BudgetedSearch
from alphareq_lightning.selection.course import Course, course_of
from alphareq_lightning.selection.interval_search import (
    AlphaIntervalSearch,
    Readout,
    closing_interval,
)
from alphareq_lightning.selection.paid_readouts import Selected, select_by_readouts
from alphareq_lightning.selection.ranking import (
    WindowAgreement,
    cautions,
    mixtures,
    rank_checkpoints,
    window_agreement,
)
from alphareq_lightning.selection.seeds import configurations_of
from alphareq_lightning.selection.trainings import trainings_of
from alphareq_lightning.selection.verdict import verdict

__all__ = [
    "AlphaIntervalSearch",
    "BudgetedSearch",
    "Course",
    "Criterion",
    "Readout",
    "Selected",
    "Verdict",
    "WindowAgreement",
    "cautions",
    "closing_interval",
    "configurations_of",
    "course_of",
    "mixtures",
    "rank_checkpoints",
    "select_by_readouts",
    "trainings_of",
    "verdict",
    "window_agreement",
]
