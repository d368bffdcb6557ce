"""What every metric of a score does: take after the table, and be NaN with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from alphareq_lightning.errors import AlphaReQError, NoFitWarning
from alphareq_lightning.metrics.scores import SCORES, better

_WAYS = {"higher": True, "lower": False, "neither": None}


def nan_with_warning(metric: Metric, score: Callable[[], Tensor]) -> Tensor:
    """The score, or NaN with a `NoFitWarning` where the function behind it would raise.

    A metric runs inside training, which goes on.
    """
    try:
        return score()
    except AlphaReQError as error:
        message = f"{type(metric).__name__} is NaN: {error}"
        warnings.warn(message, NoFitWarning, stacklevel=3)
        return torch.full((), torch.nan, dtype=torch.float64, device=metric.device)


class NamedScore(Metric):
    """What a Metric of a score in the table takes from there."""

    name = ""
    """Of the score; a derived class has one of its own."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if vars(cls).get("name"):
            cls.higher_is_better = _WAYS[better(cls.name)]  # type: ignore[method-assign, assignment]
            reference = SCORES[cls.name].reference
            cls.__doc__ = (
                f"{(cls.__doc__ or '').rstrip()}\n\n    References:\n        {reference}\n"
            )

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Which way is better; `None` if neither, or if it is no score of the table."""
        return _WAYS[better(self.name)] if self.name else None
