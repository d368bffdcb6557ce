"""Any `nn.Module` in, records out; nothing here knows a Trainer."""

from alphareq_lightning.measure.gauge import Gauge, GaugeOptions
from alphareq_lightning.measure.profile import profile_layers
from alphareq_lightning.measure.ranks import AllProcesses, OneProcess
from alphareq_lightning.measure.units import profiled_layers

__all__ = [
    "AllProcesses",
    "Gauge",
    "GaugeOptions",
    "OneProcess",
    "profile_layers",
    "profiled_layers",
]
