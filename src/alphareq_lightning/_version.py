"""The one version number, of which packages and ``alphareq --version`` tell."""

__version__ = "0.1.0"
