"""Pictures of a spectrum and of the course of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.functional.power_law import check_target
from alphareq_lightning.records.record import AlphaRecord
from alphareq_lightning.selection import verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EARLIER_SPECTRA = 6
COLOURS = {
    "warming up": "gold",
    "settling": "tab:blue",
    "settled": "tab:green",
    "failing": "tab:red",
    "collapsed": "black",
}
"""Of the phases of a training that are known."""


def spectrum_figure(record: AlphaRecord, earlier: Sequence[AlphaRecord] = ()) -> Figure:
    """Eigenvalues against rank, with the fitted line and the range it was fitted on.

    Args:
        record: A measurement; without a fit only the eigenvalues are drawn.
        earlier: Measurements of the layer from before, oldest first: a few of them, spread over the
            training, are drawn faintly behind.

    Returns:
        A matplotlib figure that pyplot does not know, so nothing has to be closed.
    """
    from matplotlib.ticker import NullLocator

    figure = _figure(5.6, 4.2, dpi=110)
    figure.subplots_adjust(0.13, 0.12, 0.98, 0.92)  # a layout that is solved takes twice the time
    axes = figure.add_subplot()
    shares, line = record.shares, record.line()
    axes.set(xlabel="rank n", ylabel="eigenvalue λₙ (share of the largest)")
    axes.set_title(f"{record.layer}, epoch {record.epoch}, {record.num_samples:,} images")
    axes.grid(which="major", alpha=0.3)
    if not shares:
        axes.text(0.5, 0.5, "no eigenvalue above 0", ha="center", transform=axes.transAxes)
        return figure
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):  # each tick takes time
        axis.set_minor_locator(NullLocator())
    axes.plot(range(1, len(shares) + 1), shares, lw=2.2, zorder=3, label="eigenvalues")
    if record.fit is not None:
        label = f"α = {record.alpha:.3f}, R² = {record.r2:.3f}"
        axes.plot(*(line or ([], [])), "--", lw=1.8, color="C3", zorder=3, label=label)
        window = f"fitted ranks {record.ranks}"
        axes.axvspan(*record.fit.fit_range, color="C3", alpha=0.08, label=window)
    behind = _spread([r for r in earlier if r.eigenvalues and 0 < r.eigenvalues[0] < math.inf])
    for place, older in enumerate(behind, start=1):
        shares = older.shares
        label = f"steps {behind[0].global_step:,} … {behind[-1].global_step:,}"
        axes.plot(
            range(1, len(shares) + 1),
            shares,
            lw=1,
            color="0.3",
            alpha=0.15 + 0.4 * place / len(behind),  # the older, the fainter
            label=label if place == len(behind) else None,
        )
    axes.legend(loc="lower left")  # where a spectrum never is
    return figure


def _spread(records: Sequence[AlphaRecord]) -> list[AlphaRecord]:
    if len(records) <= EARLIER_SPECTRA:
        return list(records)
    return [
        records[i * (len(records) - 1) // (EARLIER_SPECTRA - 1)] for i in range(EARLIER_SPECTRA)
    ]


def course_figure(
    history: Sequence[AlphaRecord], target: float | tuple[float, float] = 1.0
) -> Figure:
    """α over the steps of a training, with what was measured beside it and the phases behind.

    Args:
        history: Records of one layer, one fit window and one training; at least one.
        target: The α to be near, or an interval ``(low, high)``.

    Returns:
        A matplotlib figure that pyplot does not know. It is made for the cards of TensorBoard,
        which are some 400 pixels wide.
    """
    history = sorted(history, key=lambda record: record.global_step)
    steps, newest = [record.global_step for record in history], history[-1]
    loss = _loss_key(history)
    beside = {
        loss: [record.metrics.get(loss, math.nan) for record in history],
        "RankMe": [record.scores.get("rankme", math.nan) for record in history],
    }
    beside = {name: ys for name, ys in beside.items() if any(map(math.isfinite, ys))}
    figure = _figure(4.8, 3.2 + 1.1 * len(beside), dpi=100)
    heights = [2.2, *(1.0 for _ in beside)]
    panels = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    inches = figure.get_figheight()  # fixed margins: a layout that is solved takes twice the time
    figure.subplots_adjust(0.13, 0.95 / inches, 0.97, 1 - 0.5 / inches, hspace=0.32)
    phase = f", {newest.phase}" if newest.phase in COLOURS else ""
    drift = "" if newest.drift is None else f", drift {newest.drift:+.2f}"
    panels[0].set_title(
        f"{newest.layer}{phase} (step {newest.global_step:,})\nα = {newest.alpha:.3f}{drift}",
        loc="left",
        size=11,
    )
    _draw_alpha(panels[0], history, steps, check_target(target))
    _mark_choice(panels[0], history, target)
    for axes, (name, values) in zip(panels[1:], beside.items(), strict=True):
        known = [(x, y) for x, y in zip(steps, values, strict=True) if math.isfinite(y)]
        axes.plot(*zip(*known, strict=True), "o-", ms=3, color="0.25")  # over what lies between
        axes.set_title(name, loc="left", size=10, pad=3)
    for axes in panels:
        axes.locator_params(nbins=4)  # each tick takes time
        axes.grid(alpha=0.3)
        _shade(axes, history)
    panels[-1].set_xlabel("step")
    handles, labels = panels[0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))  # a phase may come back
    figure.legend(
        list(by_label.values()),
        list(by_label),
        loc="lower center",
        ncols=3,
        fontsize=10,
        frameon=False,
        handlelength=1.5,
        columnspacing=1.2,
    )
    return figure


def _loss_key(history: Sequence[AlphaRecord]) -> str:
    """The loss of the validation, else any; of several the plainest."""
    names = {name for record in history for name in record.metrics if name.endswith("loss")}
    return min(names, key=lambda name: ("train" in name, len(name), name), default="loss")


def _draw_alpha(
    axes: Axes, history: Sequence[AlphaRecord], steps: Sequence[int], target: tuple[float, float]
) -> None:
    alphas = [record.alpha for record in history]
    errors = [record.stderr if math.isfinite(record.stderr) else 0.0 for record in history]
    under = [alpha - error for alpha, error in zip(alphas, errors, strict=True)]
    over = [alpha + error for alpha, error in zip(alphas, errors, strict=True)]
    axes.fill_between(steps, under, over, color="C0", alpha=0.25, lw=0)
    axes.plot(steps, alphas, "o-", ms=4, color="C0", zorder=3, label="α ± standard error")
    low, high = target
    if low == high:
        axes.axhline(low, color="C2", lw=1.8, label=f"target {low:g}")
    else:
        label = f"target {low:g} to {high:g}"
        axes.axhspan(
            low, high, facecolor="none", edgecolor="C2", alpha=0.4, hatch="//", label=label
        )
    untrained = history[-1].untrained_alpha
    if untrained is not None:
        axes.axhline(untrained, color="C1", ls=":", lw=1.8, label=f"untrained {untrained:.2f}")


def _mark_choice(
    axes: Axes, history: Sequence[AlphaRecord], target: float | tuple[float, float]
) -> None:
    """The measurement whose checkpoint the verdict would keep, if it keeps one."""
    with suppress(SelectionError):  # they can be drawn beside each other, and not be chosen from
        choice = verdict(history, target=target).choice
        if choice is not None:
            at, label = (choice.global_step, choice.alpha), f"keep step {choice.global_step:,}"
            axes.plot(*at, "*", ms=13, color="C3", zorder=4, ls="", label=label)


def _shade(axes: Axes, history: Sequence[AlphaRecord]) -> None:
    """Colour the stretches of the training by the phase that each measurement has found."""
    begin = history[0].global_step
    for phase, records in groupby(history, key=lambda record: record.phase):
        end = list(records)[-1].global_step
        if phase in COLOURS and end > begin:
            axes.axvspan(begin, end, color=COLOURS[phase], alpha=0.15, lw=0, label=phase)
        begin = end


def _figure(width: float, height: float, **options: Any) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure
