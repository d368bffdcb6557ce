"""Which model is best: records, ranking and search; no torch needed."""

from alphareq_lightning.selection.interval_search import (
    AlphaIntervalSearch,
    Readout,
    closing_interval,
)
from alphareq_lightning.selection.paid_readouts import Selected, select_by_readouts
from alphareq_lightning.selection.ranking import (
    WindowAgreement,
    cautions,
    kendall_tau,
    rank_checkpoints,
    refit,
    target_distance,
    window_agreement,
)
from alphareq_lightning.selection.records import (
    AlphaRecord,
    append_record,
    read_records,
    write_records,
)

__all__ = [
    "AlphaIntervalSearch",
    "AlphaRecord",
    "Readout",
    "Selected",
    "WindowAgreement",
    "append_record",
    "cautions",
    "closing_interval",
    "kendall_tau",
    "rank_checkpoints",
    "read_records",
    "refit",
    "select_by_readouts",
    "target_distance",
    "window_agreement",
    "write_records",
]
