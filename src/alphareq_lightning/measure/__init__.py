"""Any `nn.Module` in, records out; nothing here knows a Trainer."""

from alphareq_lightning.measure.profile import profile_layers
from alphareq_lightning.measure.units import profiled_layers

__all__ = ["profile_layers", "profiled_layers"]
