"""α of models that were trained before: one pass over the images for each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from alphareq_lightning.callbacks.feature_tap import FeatureTap, Pool
from alphareq_lightning.callbacks.layers import Take, resolve_layers
from alphareq_lightning.callbacks.measurement import check_scores, measure
from alphareq_lightning.callbacks.unlabeled_pass import first_tensor
from alphareq_lightning.errors import FeatureTapError, OptionError
from alphareq_lightning.functional.power_law import FitRange, check_fit_range
from alphareq_lightning.selection import AlphaRecord


@torch.no_grad()
def score_model(
    module: nn.Module,
    images: Iterable[Any],
    layer: str | Sequence[str] | None = None,
    *,
    take: Take = "output",
    pool: Pool = "mean",
    fit_range: FitRange = "auto",
    scores: Sequence[str] = ("rankme",),
    device: torch.device | str = "cpu",
) -> list[AlphaRecord]:
    """Measure α of one or several layers of a model in one pass over unlabeled images.

    Args:
        module: Run on each batch in eval mode; left on ``device``.
        images: Batches that are tensors, or tuples or dicts whose first tensor is images.
        layer: As in `AlphaMonitor`.
        take: As in `AlphaMonitor`.
        pool: As in `AlphaMonitor`.
        fit_range: As in `fit_power_law`.
        scores: Names of extra scores.
        device: Where to run.

    Returns:
        One record for each layer; ``problem`` is set where there is no fit.

    Raises:
        OptionError: If a layer or a score does not exist.
        FeatureTapError: If a layer does not run, gives no tensor, or cannot be chosen.
    """
    check_fit_range(fit_range)
    scores = check_scores(scores)
    layers = resolve_layers(module, layer, take)
    taps = [FeatureTap(found, pool) for found in layers]
    started = time.perf_counter()
    try:
        module.to(device).eval()
        for tap in taps:
            tap.start(device)
            tap.is_open = True
        for batch in images:
            module(first_tensor(batch).to(device))
    finally:
        for tap in taps:
            tap.remove()
    records = []
    for tap in taps:
        if tap.problem is not None:
            raise FeatureTapError(tap.problem)
        record = measure(tap.moments.reduced(), fit_range, scores)
        seconds = time.perf_counter() - started
        records.append(replace(record, layer=tap.layer.label, seconds=seconds))
    return records


def default_device(name: str) -> torch.device:
    """The device called ``name``; ``"auto"`` is the GPU if there is one.

    Raises:
        OptionError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"no device {name!r}: {str(error).splitlines()[0]}") from error
