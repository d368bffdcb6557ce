"""A profile as a table, as a picture and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from alphareq_lightning.measure.measurement import GOOD_R2
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.text import json_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def profile_table(records: Sequence[AlphaRecord], title: str = "") -> Table:
    """A row for each layer, with what stands against its α."""
    scores = list(records[0].scores) if records else []
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    for name in ("d", "images", "α", "R²", "ranks", *scores):
        table.add_column(name, justify="right")
    table.add_column("note")
    for r in records:
        row = (str(r.num_features), str(r.num_samples), f"{r.alpha:.3f}", f"{r.r2:.3f}", r.ranks)
        values = [f"{r.scores[name]:.4g}" for name in scores]
        table.add_row(r.layer, *row, *values, _note(r))
    return table


def _note(record: AlphaRecord) -> str:
    if record.problem is not None:  # the whole of it is in the JSON
        return record.problem.split(";")[0]
    notes = []
    if record.r2 < GOOD_R2:
        notes.append("no power law")
    if record.num_samples <= record.num_features:
        notes.append("few images")
    return ", ".join(notes)


def profile_json(records: Sequence[AlphaRecord], **about: Any) -> str:
    """Everything as JSON; numbers that do not exist are ``null``.

    Args:
        records: One for each layer.
        about: What else to say of the run, for example ``model="resnet18"``.
    """
    return json_text({**about, "layers": [record.to_json() for record in records]})


def profile_figure(records: Sequence[AlphaRecord], title: str = "") -> Figure:
    """α over depth, and the spectra of all layers.

    Layers whose spectrum is no power law (R² below 0.95) are hollow.

    Args:
        records: One for each layer, first layer first.
        title: Above the picture.

    Returns:
        A matplotlib figure that pyplot does not know.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), dpi=100, layout="constrained")
    over_depth, spectra = figure.subplots(1, 2)
    figure.suptitle(title)
    depth = np.arange(len(records))
    alphas = np.array([record.alpha for record in records])
    good = np.array([record.r2 >= GOOD_R2 for record in records], dtype=bool)
    colors = colormaps["viridis"](np.linspace(0, 0.92, max(len(records), 1)))
    over_depth.axhline(1, color="0.6", lw=1, ls="--")
    over_depth.plot(depth, alphas, color="0.5", lw=1.2, zorder=1)
    over_depth.scatter(depth[good], alphas[good], c=colors[good], s=42, zorder=2)
    over_depth.scatter(
        depth[~good],
        alphas[~good],
        facecolors="white",
        edgecolors=colors[~good],
        s=42,
        zorder=2,
        label=f"R² below {GOOD_R2}",
    )
    if not good.all():
        over_depth.legend()
    labels = [record.layer for record in records]
    over_depth.set_xticks(depth, labels, rotation=90, fontsize=7)
    over_depth.set(ylabel="α")
    for record, color in zip(records, colors, strict=False):
        spectra.plot(range(1, len(record.shares) + 1), record.shares, color=color, lw=1.1)
    spectra.set(xlabel="rank n", ylabel="eigenvalue λₙ (share of the largest)")
    spectra.set(xscale="log", yscale="log")
    ranks = np.array([1, 512])
    spectra.plot(ranks, 1 / ranks, color="0.4", lw=1, ls="--", label="λₙ = 1/n")
    spectra.legend()
    return figure
