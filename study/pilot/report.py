"""Rebuilds the tables and figures of ``docs/case_study.md`` from the stored trainings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alphareq_lightning.functional.windows import window_family
from benchmarks.tables import rendered, verdict
from experiments.interval_search import RULES, WITHIN
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
    Correlation,
    Numbers,
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
INNER = "backbone.stages.2"
SHOWN_WINDOWS = ((1, 12), (4, 32), (4, 48), (8, 48), (11, 100), (16, 64), (32, 128))


@cache
def grid() -> list[Training]:
    """λ × projector width."""
    return study.load("barlow_twins")


@cache
def last_epoch() -> int:
    return grid()[0].epochs_read_out[-1]


@cache
def accuracy(task: str) -> Numbers:
    """At the end of the trainings of the grid."""
    return study.accuracies(grid(), last_epoch(), task)


@cache
def score(which: Score) -> Numbers:
    """At the end of the trainings of the grid."""
    return study.values_of(which, grid(), last_epoch())


@cache
def alphas() -> Numbers:
    """At the end of the trainings of the grid."""
    return np.array([study.alpha(t, last_epoch()) for t in grid()])


@cache
def search(rule: str, task: str) -> SearchCurve:
    """The interval search by one of `RULES` over the grid."""
    return study.search_curve(alphas(), accuracy(task), *RULES[rule])


@cache
def rho(which: Score, task: str) -> Correlation:
    """Spearman's ρ at the end of the trainings of the grid."""
    return study.correlation(score(which), accuracy(task))


def shown(found: Correlation) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def targets() -> list[str]:
    """Each target beside its figure."""
    rows = []

    def add(text: str, figure: str, met: bool) -> None:
        rows.append([text, figure, verdict(met)])

    alpha = rho(DISTANCE, "cifar10")
    add("ρ(distance of α, accuracy) ≥ 0.7, right sign", shown(alpha), alpha.value >= 0.7)
    for other in (LOSS, LOG_LOSS):
        found = study.difference(score(DISTANCE), score(other), accuracy("cifar10"))
        met = found.value >= 0.3 and found.low > 0
        add(f"at least 0.3 above {other.label}, interval above 0", shown(found), met)
    for name in RULES:
        found_by = search(name, "cifar10")
        share = found_by.readouts / len(grid())
        add(
            f"within {WITHIN:.0f} point for ≤ 40 % of readouts in ≥ 95 % of orders, {name} rule",
            f"{share:.0%} of the readouts, {found_by.success:.1%} of orders",
            share <= 0.4 and found_by.success >= 0.95,
        )
    lost = study.regret(score(DISTANCE), accuracy("cifar10"))
    add("regret of the choice by α ≤ 2 points", f"{lost:.2f} points", lost <= 2)
    far = rho(DISTANCE, "tiny_imagenet_top5")
    same = alpha.value * far.value > 0
    add("the same sign out of distribution, right or wrong", shown(far), same)
    return table(["target", "measured", ""], rows)


def correlations() -> list[str]:
    """Every score against accuracy at the end of training."""
    rows = []
    for which in SCORES:
        values = score(which)
        tau = study.kendall(values, accuracy("cifar10"))
        rhos = [shown(rho(which, task)) for task in TASKS]
        rows.append([which.label, rhos[0], shown(tau), rhos[1]])
    header = ["score, turned so that more is better", "ρ, CIFAR-10", "τ, CIFAR-10"]
    return table([*header, "ρ, Tiny ImageNet"], rows)


def by_epoch() -> list[str]:
    """How early a score tells the final accuracy."""
    rows = []
    for which in (DISTANCE, CORRECTED, RANKME, LIDAR, SELFCLUSTER, LOSS, LOG_LOSS):
        cells = [which.label]
        for epoch in grid()[0].epochs_read_out:
            values = study.values_of(which, grid(), epoch)
            now = study.spearman(values, study.accuracies(grid(), epoch))
            final = study.spearman(values, accuracy("cifar10"))
            cells.append(f"{now:.2f} / {final:.2f}")
        rows.append(cells)
    epochs = [f"epoch {epoch}" for epoch in grid()[0].epochs_read_out]
    return table(["ρ with accuracy then / at the end", *epochs], rows)


def windows() -> list[str]:
    """The same α from other ranks and from another layer."""
    fits = [w for w in SHOWN_WINDOWS if w[1] <= FEATURES // 2]
    found = {task: study.window_correlations(grid(), last_epoch(), fits, task) for task in TASKS}
    rows = [
        [f"output, ranks {first}–{last}", *(f"{found[task][i]:.2f}" for task in TASKS)]
        for i, (first, last) in enumerate(fits)
    ]
    used = grid()[0].at(last_epoch())["layers"][study.OUTPUT]["fit_range"]
    rows.append(
        [
            f"output, `auto`: {used[0]}–{used[1]}",
            *(f"{rho(DISTANCE, task).value:.2f}" for task in TASKS),
        ]
    )
    inner = np.array([study.alpha(t, last_epoch(), INNER) for t in grid()])
    nearness = np.nan_to_num(-np.abs(inner - 1), nan=-np.inf)
    rows.append(
        [
            "third of four stages, `auto`",
            *(f"{study.spearman(nearness, accuracy(task)):.2f}" for task in TASKS),
        ]
    )
    return table(["α of", *(f"ρ, {label}" for label in TASKS.values())], rows)


def choosers() -> list[str]:
    """What each score would have chosen, and what that costs."""
    votes = {
        "α alone": score(DISTANCE),
        "RankMe alone": score(RANKME),
        "LiDAR alone": score(LIDAR),
        "SelfCluster alone": score(SELFCLUSTER),
        "consensus of α and RankMe": study.consensus([score(DISTANCE), score(RANKME)]),
        "consensus of α, RankMe and LiDAR": study.consensus(
            [score(DISTANCE), score(RANKME), score(LIDAR)]
        ),
        LOSS.label: score(LOSS),
        LOG_LOSS.label: score(LOG_LOSS),
    }
    rows = []
    for name, values in votes.items():
        chosen = grid()[int(values.argmax())]
        lost = [f"{study.regret(values, accuracy(task)):.2f}" for task in TASKS]
        rows.append([name, setting(chosen), *lost])
    mean = [f"{accuracy(task).max() - accuracy(task).mean():.2f}" for task in TASKS]
    rows.append(["a model at random (mean)", "", *mean])
    best = grid()[int(accuracy("cifar10").argmax())]
    rows.append(["labels (CIFAR-10)", setting(best), "0.00", f"{_regret_of(best):.2f}"])
    return table(["chosen by", "λ, width", "points lost, CIFAR-10", "Tiny ImageNet"], rows)


def _regret_of(training: Training) -> float:
    values = accuracy("tiny_imagenet_top5")
    return float(values.max() - values[grid().index(training)])


def setting(training: Training) -> str:
    return f"{training.params['model.lambd']:g}, {training.projector_dim}"


def table_of_grid() -> list[str]:
    """Accuracy and α of each model."""
    widths = sorted({t.projector_dim for t in grid()})
    lambdas = sorted({t.params["model.lambd"] for t in grid()})
    start = study.untrained()
    cells = {
        (t.params["model.lambd"], t.projector_dim): (f"{found:.1f} ({alpha:.2f})")
        for t, found, alpha in zip(grid(), accuracy("cifar10"), alphas(), strict=True)
    }
    rows = [[f"{lam:g}", *(cells[lam, width] for width in widths)] for lam in lambdas]
    rows.append(["untrained", f"{start['cifar10']:.1f} ({start['alpha']:.2f})"])
    rows[-1] += [""] * (len(widths) - 1)
    return table(["λ", *(f"width {width}" for width in widths)], rows)


def seeds() -> list[str]:
    """The corners of the grid under other seeds."""
    corners: dict[str, list[Training]] = {}
    again = study.load("corners")
    for training in [*grid(), *again]:
        corners.setdefault(setting(training), []).append(training)
    rows = []
    for name, trainings in corners.items():
        if len(trainings) > 1:
            alphas = [study.alpha(t, last_epoch()) for t in trainings]
            values = study.accuracies(trainings, last_epoch())
            rows.append(
                [
                    name,
                    ", ".join(f"{a:.3f}" for a in alphas),
                    ", ".join(f"{a:.1f}" for a in values),
                ]
            )
    return table(["λ, width", "α of each seed", "accuracy of each seed"], rows)


def learned() -> NDArray[np.bool_]:
    """Which models of the grid ended well above the untrained network: known from labels only."""
    return accuracy("cifar10") >= study.untrained()["cifar10"] + LEARNED


def subsets() -> list[str]:
    """The correlations without the models that failed."""
    few = np.array([t.params["model.lambd"] <= 0.1 for t in grid()])
    parts = {
        "all": np.ones(len(grid()), dtype=bool),
        "λ ≤ 0.1": few,
        f"{LEARNED:.0f} points above the untrained network": learned(),
    }
    rows = []
    for name, part in parts.items():
        cells = [name, str(part.sum())]
        for task in TASKS:
            for which in (DISTANCE, RANKME, SELFCLUSTER, LOSS):
                cells.append(f"{study.spearman(score(which)[part], accuracy(task)[part]):.2f}")
        rows.append(cells)
    names = ["α", "RankMe", "SelfCluster", "loss"]
    header = ["ρ over the models", "number", *names, *(f"{name}, Tiny ImageNet" for name in names)]
    return table(header, rows)


def checkpoints() -> list[str]:
    """Which of a training's own checkpoints a score would keep."""
    epochs = grid()[0].epochs_read_out
    found = np.array([study.accuracies(grid(), epoch) for epoch in epochs])
    latest = Score("the last", lambda training, epoch: float(epoch))
    rows = []
    for which in (DISTANCE, RANKME, LIDAR, SELFCLUSTER, LOSS, latest):
        values = np.array([study.values_of(which, grid(), epoch) for epoch in epochs])
        lost = np.array([study.regret(v, a) for v, a in zip(values.T, found.T, strict=True)])
        rows.append(
            [which.label]
            + [f"{part.mean():.2f}" for part in (lost, lost[learned()], lost[~learned()])]
        )
    header = [f"kept of epochs {', '.join(map(str, epochs))}: points lost on average"]
    counts = (int(learned().sum()), int((~learned()).sum()))
    header += ["all", f"the {counts[0]} that learnt", f"the {counts[1]} that did not"]
    return table(header, rows)


def others() -> list[str]:
    """Other losses and another architecture."""
    rows = []
    for sweep, label in {"barlow_twins": "Barlow Twins, ResNet, λ × width", **OTHERS}.items():
        trainings = study.load(sweep)
        epoch = trainings[0].epochs_read_out[-1]
        alphas = [study.alpha(t, epoch) for t in trainings]
        found = study.accuracies(trainings, epoch)
        cells = [label, str(len(trainings)), str(epoch)]
        cells += [f"{min(alphas):.2f}–{max(alphas):.2f}", f"{found.min():.1f}–{found.max():.1f}"]
        for which in (DISTANCE, RANKME, LIDAR, LOSS):
            values = study.values_of(which, trainings, epoch)
            cells.append(f"{study.spearman(values, found):.2f}")
        cells.append(f"{study.regret(study.values_of(DISTANCE, trainings, epoch), found):.2f}")
        rows.append(cells)
    header = ["sweep", "models", "epochs", "α", "accuracy", "ρ of α", "RankMe", "LiDAR", "loss"]
    return table([*header, "points lost by α"], rows)


def runs() -> list[str]:
    """Where, when and how long."""
    rows = []
    for sweep in ("barlow_twins", "corners", *OTHERS):
        trainings = study.load(sweep)
        hours = sum(t.seconds["train"] + t.seconds["alpha"] for t in trainings) / 3600
        share = sum(t.seconds["alpha"] for t in trainings) / 3600 / hours
        cells = [sweep, str(len(trainings)), f"{hours:.2f} h", f"{share:.1%}"]
        for values in (
            {f"{t.machine['cpu']}, torch {t.machine['torch']}" for t in trainings},
            {t.date for t in trainings},
        ):
            cells.append(", ".join(sorted(values)))
        rows.append(cells)
    header = ["sweep", "trainings", "wall clock of a worker", "of it on α", "machine", "collected"]
    return table(header, rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "targets": targets,
    "correlations": correlations,
    "by_epoch": by_epoch,
    "windows": windows,
    "choosers": choosers,
    "grid": table_of_grid,
    "seeds": seeds,
    "subsets": subsets,
    "checkpoints": checkpoints,
    "others": others,
    "runs": runs,
}


def figure(width: float, height: float) -> Figure:
    made = Figure(figsize=(width, height), layout="constrained", dpi=90)
    FigureCanvasAgg(made)
    return made


def draw_scatter() -> Figure:
    """α and the loss against accuracy, in and out of distribution."""
    made = figure(10.5, 5.6)
    lambdas = np.log10([t.params["model.lambd"] for t in grid()])
    panels = {
        "α": alphas(),
        "RankMe": score(RANKME),
        "log(loss) / projector width": -score(LOG_LOSS),
    }
    start = {"α": study.untrained()["alpha"], "RankMe": study.untrained()["rankme"]}
    rows = made.subplots(len(TASKS), len(panels), sharey="row")
    for row, (task, label) in zip(rows, TASKS.items(), strict=True):
        for axes, (name, values) in zip(row, panels.items(), strict=True):
            points = axes.scatter(values, accuracy(task), c=lambdas, cmap="viridis", s=28)
            axes.set_xlabel(name)
            if name in start:
                axes.plot(start[name], study.untrained()[task], "r*", ms=9)
            if name == "α":
                axes.axvline(1, color="0.7", lw=1, zorder=0)
                axes.set_ylabel(f"{label}, accuracy in %")
    made.colorbar(points, ax=rows, label="log₁₀ λ")
    return made


def draw_epochs() -> Figure:
    """ρ with the final accuracy after each epoch."""
    made = figure(10.5, 3.4)
    epochs = [values["epoch"] for values in grid()[0].epochs]
    for axes, (task, label) in zip(made.subplots(1, 2, sharey=True), TASKS.items(), strict=True):
        for which in (DISTANCE, RANKME, SELFCLUSTER, LOSS, LOG_LOSS):
            rhos = [
                study.spearman(study.values_of(which, grid(), epoch), accuracy(task))
                for epoch in epochs
            ]
            label_once = which.label if task == "cifar10" else None
            axes.plot(epochs, rhos, "o-", ms=3, label=label_once)
        axes.axhline(0, color="0.7", lw=1, zorder=0)
        axes.set_xlabel("epoch of the score")
        axes.set_title(label, fontsize=10)
        axes.set_ylabel("ρ with final accuracy")
    made.legend(loc="outside lower center", ncols=5, fontsize=8)
    return made


def draw_windows() -> Figure:
    """ρ of α against first and last rank of its window."""
    made = figure(10.5, 3.8)
    fits = window_family(FEATURES)
    firsts, lasts = (sorted({w[i] for w in fits}) for i in (0, 1))
    for axes, (task, label) in zip(made.subplots(1, 2), TASKS.items(), strict=True):
        found = dict(
            zip(fits, study.window_correlations(grid(), last_epoch(), fits, task), strict=True)
        )
        values = np.array([[found.get((a, b), np.nan) for b in lasts] for a in firsts])
        image = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower")
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                color = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks(range(len(lasts)), lasts)
        axes.set_yticks(range(len(firsts)), firsts)
        axes.set_xlabel("last rank")
        axes.set_ylabel("first rank")
        axes.set_title(label, fontsize=10)
    made.colorbar(image, label="ρ of the distance of α")
    return made


def draw_search() -> Figure:
    """Chance to have found a good model after so many readouts."""
    made = figure(10.5, 3.4)
    for axes, (task, label) in zip(made.subplots(1, 2, sharey=True), TASKS.items(), strict=True):
        values = accuracy(task)
        counts = np.arange(1, len(values) + 1)
        for name in RULES:
            curve = search(name, task)
            stops = f"{name} rule: {curve.readouts:.1f} readouts"
            axes.plot(counts, curve.found_by, "o-", ms=3, label=stops)
        good = values >= values.max() - WITHIN
        nearest = np.argsort(-score(DISTANCE))
        axes.step(
            counts, np.cumsum(good[nearest]) > 0, where="post", label="nearest to α = 1 first"
        )
        axes.plot(counts, study.by_chance(values), "k--", lw=1, label="at random")
        axes.set_xlabel("readouts")
        axes.set_ylabel(f"share within {WITHIN:.0f} point of the best")
        axes.set_title(label, fontsize=10)
        axes.legend(fontsize=8)
    return made


def draw_spectra() -> Figure:
    """Eigenspectra at the end of training, one width."""
    made = figure(10.5, 3.4)
    widths = sorted({t.projector_dim for t in grid()})
    for axes, width in zip(made.subplots(1, len(widths), sharey=True), widths, strict=True):
        for training in (t for t in grid() if t.projector_dim == width):
            values = np.array(training.at(last_epoch())["layers"][study.OUTPUT]["eigenvalues"])
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
