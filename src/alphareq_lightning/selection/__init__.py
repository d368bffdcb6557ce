"""Which model is best: records, ranking and search; no torch needed."""

from alphareq_lightning.selection.ranking import rank_checkpoints, target_distance
from alphareq_lightning.selection.records import AlphaRecord

__all__ = ["AlphaRecord", "rank_checkpoints", "target_distance"]
