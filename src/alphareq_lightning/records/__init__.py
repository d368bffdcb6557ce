"""What was measured, and where it is kept: records, JSON lines, checkpoints."""

from alphareq_lightning.records.checkpoints import course_in_checkpoint, records_from_checkpoints
from alphareq_lightning.records.json_lines import append_record, read_records, write_records
from alphareq_lightning.records.record import AlphaRecord, Corrected, Fit

__all__ = [
    "AlphaRecord",
    "Corrected",
    "Fit",
    "append_record",
    "course_in_checkpoint",
    "read_records",
    "records_from_checkpoints",
    "write_records",
]
