"""The labelled readout of frozen features."""

from alphareq_lightning.readout.linear_probe import extract_features, linear_readout_accuracy

__all__ = ["extract_features", "linear_readout_accuracy"]
