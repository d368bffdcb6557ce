"""Records as pages, tables and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphareq_lightning.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """The page, imported when it is asked for: a table needs less."""
    if name in __all__:
        from alphareq_lightning.report import page

        return getattr(page, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
