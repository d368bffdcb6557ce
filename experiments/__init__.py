"""Accuracy of α: finite samples, the interval search, a pretrained network."""
