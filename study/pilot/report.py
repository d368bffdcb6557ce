"""Rebuilds the tables and figures of ``docs/case_study.md`` from the stored trainings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alphareq_lightning.functional.windows import window_family
from benchmarks.tables import rendered, verdict
from experiments.interval_search import RULES, WITHIN
from study.correlation import (
    Correlation,
    Numbers,
    consensus,
    correlation,
    difference,
    kendall,
    regret,
    spearman,
)
from study.pilot import analysis as study
from study.pilot.analysis import (
    CORRECTED,
    DISTANCE,
    LIDAR,
    LOG_LOSS,
    LOSS,
    RANKME,
    SCORES,
    TASKS,
    Score,
    SearchCurve,
    Training,
)

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "case_study.md"
OTHERS = {
    "simclr": "SimCLR, temperature",
    "vicreg": "VICReg, weight of the covariance",
    "vit": "Barlow Twins, ViT, λ",
}
FEATURES = 256
"""Width of the ResNet's features."""
SELFCLUSTER = study.companion("selfcluster")
LEARNED = 5.0
"""Points of accuracy above the untrained network from which a model counts as one that learnt."""
INNER = Score("", study.distance(lambda t, epoch: study.alpha(t, epoch, "backbone.stages.2")))
SHOWN_WINDOWS = ((1, 12), (4, 32), (4, 48), (8, 48), (11, 100), (16, 64), (32, 128))


GRID = study.load("barlow_twins")
"""λ × projector width."""
EPOCHS = GRID[0].epochs_read_out
LAST = EPOCHS[-1]
START = study.untrained()
ALPHAS = np.array([study.alpha(training, LAST) for training in GRID])
ACCURACY = {task: study.accuracies(GRID, LAST, task) for task in TASKS}
LEARNT = ACCURACY["cifar10"] >= START["cifar10"] + LEARNED
"""Which models of the grid ended well above the untrained network: known from labels only."""


@cache
def score(which: Score) -> Numbers:
    """At the end of the trainings of the grid."""
    return study.values_of(which, GRID, LAST)


@cache
def search(rule: str, task: str) -> SearchCurve:
    """The interval search by one of `RULES` over the grid."""
    return study.search_curve(ALPHAS, ACCURACY[task], *RULES[rule])


@cache
def rho(which: Score, task: str) -> Correlation:
    """Spearman's ρ at the end of the trainings of the grid."""
    return correlation(score(which), ACCURACY[task])


def shown(found: Correlation) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def targets() -> list[str]:
    """Each target beside its figure."""
    alpha, far = (rho(DISTANCE, task) for task in TASKS)
    lost = regret(score(DISTANCE), ACCURACY["cifar10"])
    rows = [("ρ(distance of α, accuracy) ≥ 0.7, right sign", shown(alpha), alpha.value >= 0.7)]
    for other in (LOSS, LOG_LOSS):
        found = difference(score(DISTANCE), score(other), ACCURACY["cifar10"])
        text = f"at least 0.3 above {other.label}, interval above 0"
        rows.append((text, shown(found), found.value >= 0.3 and found.low > 0))
    for name in RULES:
        found_by = search(name, "cifar10")
        share = found_by.readouts / len(GRID)
        text = f"within {WITHIN:.0f} point for ≤ 40 % of readouts in ≥ 95 % of orders, {name} rule"
        figure = f"{share:.0%} of the readouts, {found_by.success:.1%} of orders"
        rows.append((text, figure, share <= 0.4 and found_by.success >= 0.95))
    rows.append(("regret of the choice by α ≤ 2 points", f"{lost:.2f} points", lost <= 2))
    same = alpha.value * far.value > 0
    rows.append(("the same sign out of distribution, right or wrong", shown(far), same))
    cells = [[text, figure, verdict(met)] for text, figure, met in rows]
    return table(["target", "measured", ""], cells)


def correlations() -> list[str]:
    """Every score against accuracy at the end of training."""
    rows = []
    for which in SCORES:
        values = score(which)
        tau = kendall(values, ACCURACY["cifar10"])
        rhos = [shown(rho(which, task)) for task in TASKS]
        rows.append([which.label, rhos[0], shown(tau), rhos[1]])
    header = ["score, turned so that more is better", "ρ, CIFAR-10", "τ, CIFAR-10"]
    return table([*header, "ρ, Tiny ImageNet"], rows)


def by_epoch() -> list[str]:
    """How early a score tells the final accuracy."""
    rows = []
    for which in (DISTANCE, CORRECTED, RANKME, LIDAR, SELFCLUSTER, LOSS, LOG_LOSS):
        cells = [which.label]
        for epoch in EPOCHS:
            values = study.values_of(which, GRID, epoch)
            now = spearman(values, study.accuracies(GRID, epoch))
            final = spearman(values, ACCURACY["cifar10"])
            cells.append(f"{now:.2f} / {final:.2f}")
        rows.append(cells)
    epochs = [f"epoch {epoch}" for epoch in EPOCHS]
    return table(["ρ with accuracy then / at the end", *epochs], rows)


def windows() -> list[str]:
    """The same α from other ranks and from another layer."""
    fits = [w for w in SHOWN_WINDOWS if w[1] <= FEATURES // 2]
    by_task = [study.window_correlations(GRID, LAST, fits, task) for task in TASKS]
    by_window = dict(zip(fits, zip(*by_task, strict=True), strict=True))
    found = {f"output, ranks {first}–{last}": rhos for (first, last), rhos in by_window.items()}
    first, last = GRID[0].at(LAST)["layers"][study.OUTPUT]["fit_range"]
    found[f"output, `auto`: {first}–{last}"] = [rho(DISTANCE, task).value for task in TASKS]
    found["third of four stages, `auto`"] = [rho(INNER, task).value for task in TASKS]
    rows = [[label, *(f"{value:.2f}" for value in values)] for label, values in found.items()]
    return table(["α of", *(f"ρ, {label}" for label in TASKS.values())], rows)


def choosers() -> list[str]:
    """What each score would have chosen, and what that costs."""
    alpha, rankme, lidar = map(score, (DISTANCE, RANKME, LIDAR))
    votes = {
        "α alone": alpha,
        "RankMe alone": rankme,
        "LiDAR alone": lidar,
        "SelfCluster alone": score(SELFCLUSTER),
        "consensus of α and RankMe": consensus([alpha, rankme]),
        "consensus of α, RankMe and LiDAR": consensus([alpha, rankme, lidar]),
        LOSS.label: score(LOSS),
        LOG_LOSS.label: score(LOG_LOSS),
        "labels (CIFAR-10)": ACCURACY["cifar10"],
    }
    rows = []
    for name, values in votes.items():
        lost = [f"{regret(values, ACCURACY[task]):.2f}" for task in TASKS]
        rows.append([name, setting(GRID[int(values.argmax())]), *lost])
    mean = [f"{ACCURACY[task].max() - ACCURACY[task].mean():.2f}" for task in TASKS]
    rows.insert(-1, ["a model at random (mean)", "", *mean])
    return table(["chosen by", "λ, width", "points lost, CIFAR-10", "Tiny ImageNet"], rows)


def setting(training: Training) -> str:
    return f"{training.params['model.lambd']:g}, {training.projector_dim}"


def grid() -> list[str]:
    """Accuracy and α of each model."""
    widths = sorted({t.projector_dim for t in GRID})
    rows: dict[float, list[str]] = {}
    # The trainings are in the order of λ, and of width for each λ.
    for t, found, alpha in zip(GRID, ACCURACY["cifar10"], ALPHAS, strict=True):
        lam = t.params["model.lambd"]
        rows.setdefault(lam, [f"{lam:g}"]).append(f"{found:.1f} ({alpha:.2f})")
    start = ["untrained", f"{START['cifar10']:.1f} ({START['alpha']:.2f})"]
    last = start + [""] * (len(widths) - 1)
    return table(["λ", *(f"width {width}" for width in widths)], [*rows.values(), last])


def seeds() -> list[str]:
    """The corners of the grid under other seeds."""
    corners: dict[str, list[Training]] = {}
    for training in [*GRID, *study.load("corners")]:
        corners.setdefault(setting(training), []).append(training)
    rows = []
    for name, trainings in corners.items():
        if len(trainings) > 1:
            alphas = ", ".join(f"{study.alpha(t, LAST):.3f}" for t in trainings)
            values = ", ".join(f"{a:.1f}" for a in study.accuracies(trainings, LAST))
            rows.append([name, alphas, values])
    return table(["λ, width", "α of each seed", "accuracy of each seed"], rows)


def subsets() -> list[str]:
    """The correlations without the models that failed."""
    few = np.array([t.params["model.lambd"] <= 0.1 for t in GRID])
    parts = {
        "all": np.ones(len(GRID), dtype=bool),
        "λ ≤ 0.1": few,
        f"{LEARNED:.0f} points above the untrained network": LEARNT,
    }
    rows = []
    for name, part in parts.items():
        cells = [name, str(part.sum())]
        for task in TASKS:
            for which in (DISTANCE, RANKME, SELFCLUSTER, LOSS):
                cells.append(f"{spearman(score(which)[part], ACCURACY[task][part]):.2f}")
        rows.append(cells)
    names = ["α", "RankMe", "SelfCluster", "loss"]
    header = ["ρ over the models", "number", *names, *(f"{name}, Tiny ImageNet" for name in names)]
    return table(header, rows)


def checkpoints() -> list[str]:
    """Which of a training's own checkpoints a score would keep."""
    found = np.array([study.accuracies(GRID, epoch) for epoch in EPOCHS])
    latest = Score("the last", lambda training, epoch: float(epoch))
    rows = []
    for which in (DISTANCE, RANKME, LIDAR, SELFCLUSTER, LOSS, latest):
        values = np.array([study.values_of(which, GRID, epoch) for epoch in EPOCHS])
        lost = np.array([regret(v, a) for v, a in zip(values.T, found.T, strict=True)])
        parts = (lost, lost[LEARNT], lost[~LEARNT])
        rows.append([which.label, *(f"{part.mean():.2f}" for part in parts)])
    header = [f"kept of epochs {', '.join(map(str, EPOCHS))}: points lost on average", "all"]
    header += [f"the {LEARNT.sum()} that learnt", f"the {(~LEARNT).sum()} that did not"]
    return table(header, rows)


def others() -> list[str]:
    """Other losses and another architecture."""
    rows = []
    for sweep, label in {"barlow_twins": "Barlow Twins, ResNet, λ × width", **OTHERS}.items():
        trainings = study.load(sweep)
        epoch = trainings[0].epochs_read_out[-1]
        alphas = [study.alpha(t, epoch) for t in trainings]
        found = study.accuracies(trainings, epoch)
        scores = [
            study.values_of(which, trainings, epoch) for which in (DISTANCE, RANKME, LIDAR, LOSS)
        ]
        cells = [label, str(len(trainings)), str(epoch)]
        cells += [f"{min(alphas):.2f}–{max(alphas):.2f}", f"{found.min():.1f}–{found.max():.1f}"]
        cells += [f"{spearman(values, found):.2f}" for values in scores]
        rows.append([*cells, f"{regret(scores[0], found):.2f}"])
    header = ["sweep", "models", "epochs", "α", "accuracy", "ρ of α", "RankMe", "LiDAR", "loss"]
    return table([*header, "points lost by α"], rows)


def runs() -> list[str]:
    """Where, when and how long."""
    rows = []
    for sweep in ("barlow_twins", "corners", *OTHERS):
        trainings = study.load(sweep)
        hours = sum(t.seconds["train"] + t.seconds["alpha"] for t in trainings) / 3600
        share = sum(t.seconds["alpha"] for t in trainings) / 3600 / hours
        machines = {f"{t.machine['cpu']}, torch {t.machine['torch']}" for t in trainings}
        about = [", ".join(sorted(values)) for values in (machines, {t.date for t in trainings})]
        rows.append([sweep, str(len(trainings)), f"{hours:.2f} h", f"{share:.1%}", *about])
    header = ["sweep", "trainings", "wall clock of a worker", "of it on α", "machine", "collected"]
    return table(header, rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    made.__name__: made
    for made in (
        targets,
        correlations,
        by_epoch,
        windows,
        choosers,
        grid,
        seeds,
        subsets,
        checkpoints,
        others,
        runs,
    )
}


def figure(height: float) -> Figure:
    return Figure(figsize=(10.5, height), layout="constrained", dpi=90)


def panels(made: Figure, **options: Any) -> Iterator[tuple[Axes, str]]:
    """Axes side by side for each task, with its name."""
    for axes, task in zip(made.subplots(1, len(TASKS), **options), TASKS, strict=True):
        axes.set_title(TASKS[task], fontsize=10)
        yield axes, task


def draw_scatter() -> Figure:
    """α and the loss against accuracy, in and out of distribution."""
    made = figure(5.6)
    lambdas = np.log10([t.params["model.lambd"] for t in GRID])
    columns = {
        "α": (ALPHAS, START["alpha"]),
        "RankMe": (score(RANKME), START["rankme"]),
        "log(loss) / projector width": (-score(LOG_LOSS), None),
    }
    rows = made.subplots(len(TASKS), len(columns), sharey="row")
    for row, (task, label) in zip(rows, TASKS.items(), strict=True):
        row[0].axvline(1, color="0.7", lw=1, zorder=0)
        row[0].set_ylabel(f"{label}, accuracy in %")
        for axes, (name, (values, start)) in zip(row, columns.items(), strict=True):
            points = axes.scatter(values, ACCURACY[task], c=lambdas, cmap="viridis", s=28)
            axes.set_xlabel(name)
            if start is not None:
                axes.plot(start, START[task], "r*", ms=9)
    made.colorbar(points, ax=rows, label="log₁₀ λ")
    return made


def draw_epochs() -> Figure:
    """ρ with the final accuracy after each epoch."""
    made = figure(3.4)
    epochs = [values["epoch"] for values in GRID[0].epochs]
    for axes, task in panels(made, sharey=True):
        for which in (DISTANCE, RANKME, SELFCLUSTER, LOSS, LOG_LOSS):
            values = (study.values_of(which, GRID, epoch) for epoch in epochs)
            rhos = [spearman(v, ACCURACY[task]) for v in values]
            axes.plot(epochs, rhos, "o-", ms=3, label=which.label)
        axes.axhline(0, color="0.7", lw=1, zorder=0)
        axes.set(xlabel="epoch of the score", ylabel="ρ with final accuracy")
    made.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return made


def draw_windows() -> Figure:
    """ρ of α against first and last rank of its window."""
    made = figure(3.8)
    fits = window_family(FEATURES)
    firsts, lasts = (sorted({w[i] for w in fits}) for i in (0, 1))
    for axes, task in panels(made):
        rhos = study.window_correlations(GRID, LAST, fits, task)
        values = np.full((len(firsts), len(lasts)), np.nan)
        for (first, last), value in zip(fits, rhos, strict=True):
            i, j = firsts.index(first), lasts.index(last)
            values[i, j] = value
            if np.isfinite(value):
                color = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
        image = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower")
        axes.set_xticks(range(len(lasts)), lasts)
        axes.set_yticks(range(len(firsts)), firsts)
        axes.set(xlabel="last rank", ylabel="first rank")
    made.colorbar(image, label="ρ of the distance of α")
    return made


def draw_search() -> Figure:
    """Chance to have found a good model after so many readouts."""
    made = figure(3.4)
    counts = np.arange(1, len(GRID) + 1)
    nearest = np.argsort(-score(DISTANCE))
    for axes, task in panels(made, sharey=True):
        for name in RULES:
            curve = search(name, task)
            stops = f"{name} rule: {curve.readouts:.1f} readouts"
            axes.plot(counts, curve.found_by, "o-", ms=3, label=stops)
        found = np.cumsum(ACCURACY[task][nearest] >= ACCURACY[task].max() - WITHIN) > 0
        axes.step(counts, found, where="post", label="nearest to α = 1 first")
        axes.plot(counts, study.by_chance(ACCURACY[task]), "k--", lw=1, label="at random")
        axes.set(xlabel="readouts", ylabel=f"share within {WITHIN:.0f} point of the best")
        axes.legend(fontsize=8)
    return made


def draw_spectra() -> Figure:
    """Eigenspectra at the end of training, one width."""
    made = figure(3.4)
    widths = sorted({t.projector_dim for t in GRID})
    for axes, width in zip(made.subplots(1, len(widths), sharey=True), widths, strict=True):
        for training in (t for t in GRID if t.projector_dim == width):
            values = np.array(training.at(LAST)["layers"][study.OUTPUT]["eigenvalues"])
            positive = values[values > 0]
            lam = training.params["model.lambd"]
            axes.loglog(np.arange(1, len(positive) + 1), positive / positive[0], label=f"{lam:g}")
        axes.set_title(f"projector width {width}", fontsize=10)
        axes.set_xlabel("rank")
        axes.set_ylim(bottom=1e-6)
    axes.legend(title="λ", fontsize=8)
    return made


FIGURES: dict[str, Callable[[], Figure]] = {
    "scatter": draw_scatter,
    "epochs": draw_epochs,
    "windows": draw_windows,
    "search": draw_search,
    "spectra": draw_spectra,
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")
    for name, draw in FIGURES.items():
        draw().savefig(DOCS / f"study_{name}.png", metadata={"Software": None})
    print(f"wrote {PAGE} and {len(FIGURES)} figures")


if __name__ == "__main__":
    main()
