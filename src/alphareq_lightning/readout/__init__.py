"""The labelled readout of frozen features."""

from alphareq_lightning.readout.features import (
    cached_features,
    extract_features,
    features_key,
)
from alphareq_lightning.readout.probes import PROBES, Probe, ReadoutScores, read_out

__all__ = [
    "PROBES",
    "Probe",
    "ReadoutScores",
    "cached_features",
    "extract_features",
    "features_key",
    "read_out",
]
