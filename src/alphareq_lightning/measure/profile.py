"""One pass over images, with a tap on every layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from alphareq_lightning.functional.power_law import FitRange
from alphareq_lightning.measure.batches import images_of
from alphareq_lightning.measure.evaluating import evaluating
from alphareq_lightning.measure.gauge import Gauge, GaugeOptions
from alphareq_lightning.measure.layer_features import run_on
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.pooling import Pool
from alphareq_lightning.measure.units import profiled_layers
from alphareq_lightning.records import AlphaRecord


def profile_layers(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: str | Sequence[str] | Sequence[Layer] = (),
    pool: Pool = "mean",
    fit_range: FitRange | Sequence[int] = "auto",
    scores: str | Sequence[str] = ("rankme",),
    device: torch.device | str = "cpu",
) -> list[AlphaRecord]:
    """Measure α at many layers in one pass, in eval mode and with no gradient.

    Each layer keeps a ``d × d`` state: 34 MB at ``d = 2048``.

    Args:
        model: Any network; left on ``device``, its modes as they were.
        batches: Batches of images: tensors, or tuples or dicts that hold them, see `images_of`.
        layers: Layers, their names, or patterns of these; see `profiled_layers` for the default.
        pool: As in `AlphaMonitor`.
        fit_range: As in `fit_power_law`.
        scores: Extra scores by name, as in `AlphaMonitor`.
        device: Where to run.

    Returns:
        One record for each layer, first layer first; ``problem`` says why a layer has no α.

    Raises:
        AlphaReQError: If an option cannot work, or the model does not run on the images.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 5))
        >>> records = profile_layers(model, torch.randn(500, 64).split(100))
        >>> [record.layer for record in records]
        ['0', '2', '3:input']
    """
    options = GaugeOptions(pool=pool, fit_range=fit_range, scores=scores)
    given = (layers,) if isinstance(layers, str) else tuple(layers)
    chosen = tuple(layer for layer in given if isinstance(layer, Layer))
    if not chosen:
        chosen = profiled_layers(model, [str(pattern) for pattern in given])
    model.to(device)
    with Gauge(options, model, layers=chosen) as gauge:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                with gauge.watching(batch):
                    run_on(model, images_of(batch).to(device))
        return gauge.record(warn=False)
