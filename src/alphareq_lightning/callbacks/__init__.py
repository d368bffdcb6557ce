"""The Lightning glue: the callback and what it leaves in checkpoints."""

from alphareq_lightning.callbacks.alpha_monitor import AlphaMonitor
from alphareq_lightning.callbacks.figures import spectrum_figure

__all__ = ["AlphaMonitor", "spectrum_figure"]
