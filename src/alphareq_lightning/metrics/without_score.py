"""What every metric here does when there is no score: NaN and a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from alphareq_lightning.errors import AlphaReQError, NoFitWarning


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
