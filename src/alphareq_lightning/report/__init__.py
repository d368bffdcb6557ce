"""Records as pages, tables and pictures."""

from alphareq_lightning.report.page import write_report

__all__ = ["write_report"]
