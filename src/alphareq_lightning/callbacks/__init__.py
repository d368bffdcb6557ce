"""The Lightning glue: the callback and what it leaves in checkpoints."""

from alphareq_lightning.callbacks.alpha_monitor import AlphaMonitor
from alphareq_lightning.callbacks.figures import course_figure, spectrum_figure

__all__ = ["AlphaMonitor", "course_figure", "spectrum_figure"]
