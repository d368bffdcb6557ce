"""α at many layers of any network, in one pass over images."""

from alphareq_lightning.profile.measuring import profile_layers
from alphareq_lightning.profile.models import ProfiledModel, load_model
from alphareq_lightning.profile.report import profile_figure, profile_json, profile_table
from alphareq_lightning.profile.units import profiled_layers

__all__ = [
    "ProfiledModel",
    "load_model",
    "profile_figure",
    "profile_json",
    "profile_layers",
    "profile_table",
    "profiled_layers",
]
