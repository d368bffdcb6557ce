"""Which model is best: ranking and search."""

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

__all__ = [
    "AlphaIntervalSearch",
    "Readout",
    "Selected",
    "WindowAgreement",
    "cautions",
    "closing_interval",
    "mixtures",
    "rank_checkpoints",
    "select_by_readouts",
    "window_agreement",
]
