"""One pass over images, with a tap on every layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from alphareq_lightning.callbacks.no_trace import evaluating
from alphareq_lightning.functional.power_law import FitRange, check_fit_range
from alphareq_lightning.measure.batches import images_of
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layer_features import run_on
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.measurement import measure, spoiled
from alphareq_lightning.measure.pooling import Pool, check_pool
from alphareq_lightning.measure.units import profiled_layers
from alphareq_lightning.metrics.scores import Seen, check_scores, companions
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
        layers: Layers, or shell patterns of their names; see `profiled_layers` for the default.
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
    check_fit_range(fit_range)
    check_pool(pool)
    scores = check_scores(scores)
    given = (layers,) if isinstance(layers, str) else tuple(layers)
    chosen = tuple(layer for layer in given if isinstance(layer, Layer))
    if not chosen:
        chosen = profiled_layers(model, [str(pattern) for pattern in given])
    model.to(device)
    taps = [FeatureTap(layer, pool, companions(scores)) for layer in chosen]
    try:
        for tap in taps:
            tap.start(device)
            tap.is_open = True
        with evaluating(model), torch.no_grad():
            for batch in batches:
                run_on(model, images_of(batch).to(device))
    finally:
        for tap in taps:
            tap.remove()
    return [_record(tap, fit_range, scores) for tap in taps]


def _record(
    tap: FeatureTap, fit_range: FitRange | Sequence[int], scores: Sequence[str]
) -> AlphaRecord:
    moments = tap.moments.reduced(across_ranks=False)
    beside = {type(c): c.reduced(across_ranks=False) for c in tap.companions}
    record = measure(None if moments is None else Seen(moments, beside), fit_range, scores)
    if tap.problem is not None:
        record = spoiled(record, tap.problem)
    return replace(record, layer=tap.layer.label, seconds=tap.seconds)
