"""After the training: α, rankings and readouts of checkpoints that exist already."""

from alphareq_lightning.posthoc.gather import gather_records
from alphareq_lightning.posthoc.models import LoadedModel, ModelSource

__all__ = ["LoadedModel", "ModelSource", "gather_records"]
