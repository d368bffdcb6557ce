"""Writes ``docs/long_study.md`` and its pictures from the stored trainings, by way of the table."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from alphareq_lightning import AlphaRecord, course_figure, spectrum_figure
from alphareq_lightning.selection import verdict
from alphareq_lightning.selection.course import course_of, with_course
from alphareq_lightning.selection.which_training import which_training
from benchmarks.tables import rendered, table
from study import hypotheses as h
from study import mended
from study.correlation import correlation, regret, resamples
from study.hypotheses import LAST, LENGTHS, Training, accuracy, criterion, rho, shown, trainings_of
from study.records import records_of
from study.table import PLANNED, RESULTS, Row, results, write_table
from study.table import table as rows_of

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "long_study.md", ROOT / "README.md"
DRAWN = {
    "alpha": "nearness of α, 4–51",
    "alpha_2_50": "nearness of α, 2–50",
    "twins_error": "−E",
    "rankme": "RankMe",
    "selfcluster": "−SelfCluster",
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "loss": "−loss",
}
SCORES = DRAWN | {
    "alpha_11_100": "nearness of α, 11–100",
    "participation_ratio": "participation ratio",
    "nesum": "NESum",
    "matrix_entropy": "matrix entropy",
    "uniformity": "−uniformity",
    "coherence": "−coherence",
    "alignment": "−alignment",
}
BEFORE = ("alpha", "rankme", "selfcluster")
"""Shown of the layer before as well, where the window of α is 4–12 of 64 features."""
AT = (100, 400, 2000, 4000)
"""Lengths of the scatter."""
ASKED = (200, 400, 1000, 2000, LAST)
"""Steps at which the verdict is asked."""
IMAGES = ("CIFAR-10", "Tiny ImageNet")
THREE_ALIVE = "−E, RankMe, −SelfCluster together, of those that do not fail"
CHOSEN = {
    "barlow_twins": "24 Barlow Twins on CIFAR-10 (the rules were found on 15 of them)",
    "seeds": "12 under two other seeds",
    "tiny_imagenet": "12 trained on Tiny ImageNet, read out on CIFAR-10",
    "rate_decay": "12 of other learning rates and weight decays",
    "simclr": "6 SimCLR",
    "vicreg": "6 VICReg",
    "vit": "6 Barlow Twins of a ViT",
}
BESIDE = "turned"
"""Five trainings of half the length, beside the study; loggers show these figures of one."""
SHOWN = RESULTS / BESIDE / "lambd=0.03,projector_dim=256.json"
OTHERS = {"simclr": "SimCLR, temperature", "vicreg": "VICReg, covariance", "vit": "ViT, λ"}
WIDTH = 6.4
SIZES = {"font.size": 11, "axes.titlesize": 11, "legend.fontsize": 10}
"""Legible where the page is 390 pixels wide."""


def answers(grid: list[Training], elsewhere: Sequence[h.Part] = ()) -> list[str]:
    """What a user asks first; each sentence is chosen by its figures.

    Args:
        grid: The trainings of the grid.
        elsewhere: What the mended rules say of those on which they were not found.
    """
    early, late = (rho("alpha", grid, step) for step in (LENGTHS[0], LAST))
    values, turn, order = accuracy(grid), h.turn(grid), h.in_order(grid)
    lost = regret(criterion("alpha", grid, LAST), values)
    if len(grid) < PLANNED["barlow_twins"]:
        can = "Not decided yet"
    elif late.low > 0:
        can = "At the end of these trainings, yes" if lost <= 2 else "Not alone"
    else:
        can = "No: its sign is wrong" if late.high < 0 else "Nothing is certain about it"
    when = "At no step does ρ turn for good"
    if turn:
        when = f"From step {turn:,} on ρ stays above 0, {shown(rho('alpha', grid, turn))} there"
    if (~h.learnt(grid)).sum() < 3 or not h.learnt(grid).any():
        told = "Whether a turned α tells which trainings learn is not tested"
    else:
        balanced = h.balanced_accuracy(grid)
        tells = "tells" if balanced >= 0.9 else "does not tell well"
        told = f"A turned α {tells} which trainings learn: balanced accuracy {balanced:.2f} "
        told += "(.50 is a coin's)"
    good = [
        label
        for name, label in SCORES.items()
        if not name.startswith("alpha")
        and all(rho(name, grid, step).value >= 0.7 for step in LENGTHS)
    ]
    several = "no training has turned, so H3 makes no choice"
    if order:
        points = values.max() - values[order[0]]
        several = f"the choice by −E, RankMe and −SelfCluster (H3) loses {points:.1f} points"
    lines = [
        f"* **Can I use α?** {can}. At step {LAST:,} the nearness of α to 1 has ρ = {shown(late)} "
        f"with accuracy, and the model nearest to 1 loses {lost:.1f} points against the best; one "
        f"drawn at random loses {values.max() - values.mean():.1f}.",
        f"* **From when on?** {when}; at step {LENGTHS[0]} it is {shown(early)}. {told}.",
        "* **What else do I look at?** E is the Barlow Twins error, less is better. At each of "
        f"{len(LENGTHS)} lengths ρ ≥ .7 holds for "
        f"{', '.join(good) or 'no other score'}. At step {LAST:,} {several}.",
    ]
    if elsewhere:
        lines.append(f"* **Which trainings do I believe?** {believed(grid, elsewhere)}")
    return lines


def believed(grid: list[Training], elsewhere: Sequence[h.Part]) -> str:
    """What the mended rules say of the whole grid, and how they fared on others."""
    well, fails = h.learnt(grid), mended.fails(grid)
    own, wide = (rho(name, mended.alive(grid), LAST) for name in ("alpha", "alpha_2_50"))
    words = {True: "met", False: "refuted", None: "not tested"}
    fared = []
    for part in elsewhere:
        counts = Counter(words[claim.met] for claim in part.claims if claim.name.startswith("M"))
        named = ", ".join(f"{counts[word]} {word}" for word in words.values() if counts[word])
        fared.append(f"{part.name}: {named}")
    return (
        f"α well above that of the untrained network with RankMe lost (failing, M1) names "
        f"{fails[~well].sum()} of the {(~well).sum()} that did not learn and {fails[well].sum()} "
        f"of the {well.sum()} that did; among the others nearness to 1 has ρ = {shown(own)} over "
        f"ranks 4–51 and {shown(wide)} over 2–50. These rules, M1 to M9, were found on "
        f"{len(mended.FOUND_ON)} of the {len(grid)}. Their sentences, tested on others: "
        f"{'; '.join(fared)}."
    )


def claims(part: h.Part) -> list[str]:
    """A table of hypotheses, each sentence with its figure."""
    cells = [(c.name, c.says, c.figure, c.outcome(part.count, part.planned)) for c in part.claims]
    return table("| says | figure | ", cells)


def by_length(
    grid: list[Training], before: list[Training], measure: Callable[..., object]
) -> list[str]:
    """A correlation of every score, window and layer with accuracy at the same step."""
    lines = [(label, name, grid) for name, label in SCORES.items()]
    lines += [
        (f"`backbone.stages.2`: {SCORES[n]}".replace("4–51", "4–12"), n, before) for n in BEFORE
    ]
    cells = [
        (label, *(shown(measure(name, own, step)) for step in LENGTHS))
        for label, name, own in lines
    ]
    return table(" | ".join(["", *(f"{step:,}" for step in LENGTHS)]), cells)


def among_alive(grid: list[Training]) -> list[str]:
    """The same of who neither fails (M1) nor has collapsed, and of three scores together (M3)."""
    groups = {step: mended.alive(grid, step) for step in LENGTHS[1:]}
    if min(map(len, groups.values())) < h.FEWEST:
        return []
    cells = [
        (label, *(shown(rho(name, own, step)) for step, own in groups.items()))
        for name, label in SCORES.items()
    ]
    three = (
        shown(correlation(h.together(own, step), accuracy(own, step)))
        for step, own in groups.items()
    )
    cells.append(("−E, RankMe, −SelfCluster together", *three))
    header = ["step: trainings", *(f"{step:,}: {len(own)}" for step, own in groups.items())]
    return table(" | ".join(header), cells)


def choices(grid: list[Training]) -> list[str]:
    """Which model each score takes at the end, and what that costs."""
    votes = {label: int(criterion(name, grid, LAST).argmax()) for name, label in SCORES.items()}
    if order := h.in_order(grid):
        votes["turned, then −E, RankMe, −SelfCluster (H3)"] = order[0]
    lost = [v.max() - v for v in (accuracy(grid), accuracy(grid, LAST, "other_top1"))]
    cells = [
        (label, h.setting(grid[i][LAST]), *(f"{values[i]:.2f}" for values in lost))
        for label, i in votes.items()
    ]
    cells.append(("at random, mean", "", *(f"{values.mean():.2f}" for values in lost)))
    return table("chosen by | training | points lost, CIFAR-10 | Tiny ImageNet", cells)


def product(grid: Sequence[Training], folder: Path) -> str:
    """H3 by the verdict of the package, over the same bootstraps: the page asks for both."""
    histories = [records_of(path) for path in sorted((folder / "barlow_twins").glob("*.json"))]
    courses = [course_of(history) for history in histories]
    places = {history[-1].run: place for place, history in enumerate(histories)}

    def kept(draw: Sequence[int]) -> list[int]:
        told = {str(copy): courses[i] for copy, i in enumerate(draw)}
        newest = {str(copy): histories[i][-1] for copy, i in enumerate(draw)}
        found = which_training(told, newest, {}, None, 1.0, [])
        return [] if found.choice is None else [places[r.run] for r in (found.choice, *found.ties)]

    values, own = accuracy(grid), kept(range(len(grid)))
    says = "By the product's `verdict`, whose rules are mended (M1, M9), H3 "
    if not own:
        return f"{says}has no choice."
    draws = resamples(len(grid), h.DRAWS)
    held = np.mean([np.isin(values[draw].max(), values[kept(draw)]) for draw in draws])
    return (
        f"{says}loses {values.max() - values[own[0]]:.2f} points; the choice and its ties, "
        f"{len(own)} of all, hold the best in {held:.1%} of bootstraps."
    )


class Answer(NamedTuple):
    """Of the verdict of the package, asked at one step of an experiment."""

    choice: str | None
    accuracies: dict[str, float]
    """Of every training by then, in percent."""

    @property
    def lost(self) -> float | None:
        """Points that the choice loses against the best."""
        values = self.accuracies
        return None if self.choice is None else max(values.values()) - values[self.choice]

    @property
    def at_random(self) -> float:
        """The same of a training drawn at random."""
        values = self.accuracies.values()
        return max(values) - sum(values) / len(values)


def all_answers(folder: Path = RESULTS) -> dict[str, dict[int, Answer]]:
    """What the verdict says of each experiment, by name and step."""
    return {name: answers_of(folder, name) for name in (*CHOSEN, BESIDE)}


def answers_of(folder: Path, experiment: str) -> dict[int, Answer]:
    """What the verdict says at each length, by step."""
    paths = sorted((folder / experiment).glob("*.json"))
    every = [record for path in paths for record in records_of(path)]
    found = {}
    for step in ASKED if len(paths) > 1 else ():
        at = [record for record in every if record.global_step == step]
        ends = {record.run: record.accuracy or 0.0 for record in at}  # a failed readout is 0 %
        if any(ends.values()):
            choice = verdict([record for record in every if record.global_step <= step]).choice
            found[step] = Answer(None if choice is None else choice.run, ends)
    return found


def asked(found: dict[str, dict[int, Answer]]) -> list[str]:
    """What the verdict loses in each experiment, asked at each length."""
    cells = []
    for name, told in found.items():
        lost = {s: "–" if a.lost is None else f"{a.lost:.1f}" for s, a in told.items()}
        if told:
            line = (f"{lost[s]} ({told[s].at_random:.1f})" if s in told else "" for s in ASKED)
            cells.append((name, *line))
    label = "points lost (at random); – no choice; empty: no readout"
    header = [label, *(f"{step:,}" for step in ASKED)]
    return table(" | ".join(header), cells) if cells else []


def early_and_late(told: dict[int, Answer]) -> str:
    """The same of the grid, in a sentence."""
    none = [f"{step:,}" for step, answer in told.items() if answer.lost is None]
    lost = {s: f"{a.lost:.1f}" for s, a in told.items() if a.lost is not None}
    at_random = ", ".join(f"{told[step].at_random:.1f}" for step in lost)
    says = [f"after {', '.join(none)} steps it makes no choice"] if none else []
    if lost:
        steps = ", ".join(f"{step:,}" for step in lost)
        says.append(f"after {steps} it loses {', '.join(lost.values())} points ({at_random})")
    return f"Asked without a label, and in brackets at random: {'; '.join(says)}."


def chosen(rows: Sequence[Row], told: dict[str, dict[int, Answer]]) -> list[str]:
    """For the README: accuracy of the choice at the end, and who is called failing."""
    cells = []
    for name, label in CHOSEN.items():
        own = trainings_of(rows, name)
        if len(own) < PLANNED[name]:
            continue
        choice, ends = told[name][LAST]
        failing = "not known"
        if h.learnt(own).any():
            fate, fails = h.learnt(own), mended.fails(own)
            bad = f"{fails[~fate].sum()} of {(~fate).sum()}" if (~fate).any() else "all learnt"
            failing = f"{bad}; {fails[fate].sum()} of {fate.sum()}"
        else:  # what a readout of many classes does not tell
            ends = {f"{name}/{t[LAST]['training']}": t[LAST]["other_top1"] for t in own}
        mean = sum(ends.values()) / len(ends)
        percent = (f"{value:.1f} %" for value in (max(ends.values()), mean))
        taken = "no choice" if choice is None else f"{ends[choice]:.1f} %"
        cells.append((label, taken, *percent, failing))
    header = "of | the verdict chooses | the best | at random, of all | failing at the end: "
    return table(f"{header}of those that did not learn; of those that did", cells)


def abroad(own: list[Training], home: str, away: str) -> list[str]:
    """At the end, by a readout on the images of the training, and on others."""
    cells = []
    for name in ("alpha", "alpha_2_50", *h.ALIKE):
        rhos = [shown(rho(name, own, LAST, of)) for of in ("top1", "other_top1")]
        there = accuracy(own, LAST, "other_top1")
        lost = regret(criterion(name, own, LAST), there)
        cells.append((SCORES[name], *rhos, f"{lost:.2f} of {there.max():.2f}"))
    alive, best = mended.alive(own), accuracy(own, LAST, "other_top1").max()
    if len(alive) >= h.FEWEST:
        places, there = h.together(alive, LAST), accuracy(alive, LAST, "other_top1")
        rhos = [shown(correlation(places, values)) for values in (accuracy(alive), there)]
        lost = best - there[h.order_of(alive, LAST)[0]]
        cells.append((THREE_ALIVE, *rhos, f"{lost:.2f} of {best:.2f}"))
    return table(f"score | ρ, {home} | ρ, {away} | points lost there", cells)


def seeds(grid: list[Training], others: list[Training]) -> list[str]:
    cells = [
        (name, s["seeds"], f"{s['accuracy']:.2f}", f"{s['alpha']:.3f}", f"{s['error']:.1%}")
        for name, s in h.seed_spread(grid, others).items()
    ]
    return table("setting | seeds | sd of accuracy | of α | of E", cells)


def signs(rows: Sequence[Row]) -> list[str]:
    """Of groups of six only the sign of a correlation is claimed."""
    cells = []
    for experiment, label in OTHERS.items():
        own = trainings_of(rows, experiment)
        for name in ("alpha", *h.ALIKE) if len(own) > 1 else ():
            rhos = [rho(name, own, step).value for step in LENGTHS]
            marks = (
                "?" if math.isnan(r) else "+" if r > 0 else "−" if r < 0 else "0" for r in rhos
            )
            line = f"{label}, {len(own)} of {PLANNED[experiment]}"
            cells.append((line, SCORES[name].replace(", 4–51", ""), *marks))
    header = ["", "score", *(f"{step:,}" for step in LENGTHS)]
    return table(" | ".join(header), cells) if cells else []


def wide(rows: Sequence[Row]) -> list[str]:
    cells = [
        (t[LAST]["training"], *(f"{t[s]['alpha']:.2f}, {t[s]['top1']:.1f}" for s in LENGTHS))
        for t in trainings_of(rows, "wide")
    ]
    header = ["512 features: α, accuracy", *(f"{step:,}" for step in LENGTHS)]
    return table(" | ".join(header), cells) if cells else []


def trained(folder: Path) -> list[str]:
    """Where, when and how long."""
    cells = []
    for name, group in groupby(
        (values for _, values in results(folder)), lambda v: v["experiment"]
    ):
        own = list(group)
        hours = sum(values["seconds"] for values in own) / 3600
        machines = {
            f"{v['machine']['gpu'] or v['machine']['cpu']}, {v['machine']['cores']} cores, "
            f"torch {v['machine']['torch']}"
            for v in own
        }
        about = [sorted(found) for found in (machines, {v["date"] for v in own})]
        known = [", ".join(map(str, sorted({v["seed"] for v in own})))]
        known += [f"{hours:.1f}", *(", ".join(found) for found in about)]
        cells.append((name, f"{len(own)} of {PLANNED[name]}", *known))
    return table("experiment | trainings | seeds | hours, summed | machine | dates", cells)


def phase_counts(grid: list[Training]) -> list[str]:
    cells = [
        (f"{step:,}", ", ".join(f"{n} {p}" for p, n in Counter(h.phases(grid, step)).most_common()))
        for step in LENGTHS
    ]
    return table("step | phases", cells)


def left_open(rules: ModuleType) -> list[str]:
    """What the head of a module says after its first line."""
    return (rules.__doc__ or "").splitlines()[2:]


def page(rows: list[Row], told: dict[str, dict[int, Answer]], folder: Path = RESULTS) -> str:
    """The whole page; what has no results yet is left out."""
    grid, others = (trainings_of(rows, name) for name in ("barlow_twins", "seeds"))
    before = trainings_of(rows, "barlow_twins", "backbone.stages.2")
    parts, more = h.tested(rows), mended.tested(rows)
    count, planned = len({(r["experiment"], r["training"]) for r in rows}), sum(PLANNED.values())
    decided = [part for part in more if not part.preliminary and part.name != mended.OTHERS]
    found = h.budget(grid)
    for part in more:
        if part.name == mended.OTHERS:
            asked_of = {name: told[name][LAST] for name in mended.LATER if LAST in told[name]}
            part.claims.extend(mended.n9(name, a.lost) for name, a in asked_of.items())
    budgets = [] if found is None else table(
        "readouts | within a point of the best of 16",
        [("three by scores (H7)", f"{found.three:.1%}")]
        + [(f"{n} at random", f"{chance:.1%}") for n, chance in found.by_chance.items()],
    )  # fmt: skip
    elsewhere = trainings_of(rows, "tiny_imagenet")
    other = np.isfinite(h.column("other_top1", grid, LAST)).any()
    sections = {
        "The hypotheses": [*claims(parts[0]), "", product(grid, folder)],
        **{f"The hypotheses: {part.name}": claims(part) for part in parts[1:]},
        **{f"Found and tested elsewhere: {part.name}": claims(part) for part in more},
        **{f"On a GPU, and {part.name}": claims(part) for part in mended.repeated(rows)},
        "The verdict, asked at each length": asked(told),
        "Every score: ρ by length": by_length(grid, before, rho),
        "Every score: τ by length": by_length(grid, before, h.tau),
        "Among those that do not fail: ρ by length": among_alive(grid),
        "The course of α": [
            *(picture("seeds"), "", picture("courses"), ""),
            *("Phases by the six rules of H2, which are refuted; the package has M1's:", ""),
            *phase_counts(grid),
        ],
        "α and accuracy at four lengths": [picture("scatter")],
        "Choices": [picture("choices"), "", *choices(grid)],
        "Budgets": budgets,
        "Out of distribution": abroad(grid, *IMAGES) if other else [],
        "Out of distribution: tiny_imagenet": abroad(elsewhere, *IMAGES[::-1]) if elsewhere else [],
        "Seeds": seeds(grid, others) if others else [],
        "Other kinds of learning: the sign of ρ": signs(rows),
        "A wider network": wide(rows),
        "Trainings": trained(folder),
        "What HYPOTHESES.md leaves open": [*left_open(h), "", *left_open(mended)],
    }
    missing = [name for name, most in PLANNED.items() if len(trainings_of(rows, name)) < most]
    first = f"All {planned} planned trainings are there."
    if parts[0].preliminary:
        grids = f"{len(grid)} of {PLANNED['barlow_twins']} trainings of the grid"
        first = f"**Preliminary: {grids}, {count} of {planned} of the study. Nothing is decided.**"
    elif count < planned:
        first = "**The grid is complete: what is tested on it is decided.** Of the whole study "
        first += f"{count} of {planned} trainings are there; under way: {', '.join(missing)}."
    lines = ["# The long study: from when on can α be trusted?", "", first, ""]
    lines += answers(grid, decided)
    if told["barlow_twins"]:
        lines.append(f"* **What does the verdict say?** {early_and_late(told['barlow_twins'])}")
    lines.append("")
    lines += INTRODUCTION.splitlines()
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body] if body else []
    return "\n".join([*lines, ""])


INTRODUCTION = f"""\
Barlow Twins, λ × projector, {LAST:,} steps of a small ResNet on CIFAR-10: what each score says at
each length, and how that agrees with a labelled readout at the same step. The
[hypotheses](hypotheses.md) H1 to H14 were there first; M1 to M9 were found on fifteen trainings of
the grid, N1 to N5 on all 24, N6 and N7 on these and `seeds`, N8 and N9 on SimCLR; they
are tested on others. G1 to G3 are about a GPU. E is the
Barlow Twins error (`twins_error`); every score is turned so that more should be better. ρ is
Spearman's, with a 95 % interval of 2,000 bootstraps over models where there are {h.FEWEST} or more.
The table behind this page is `study/results/table.csv`, its data card `study/results/README.md`.
`make study-report` makes page and table of the results that are committed.

![ρ of each score with accuracy over the steps of training](long_study_rho.png)"""


def picture(name: str) -> str:
    return f"![{(DRAWINGS[name].__doc__ or '').rstrip('.')}](long_study_{name}.png)"


def panels(rows: int, height: float) -> tuple[Figure, Iterator[Axes]]:
    made = Figure(figsize=(WIDTH, height), layout="constrained", dpi=120)
    return made, iter(made.subplots(rows, 2, sharex=True, sharey=True).flat)


def steps_axis(axes: Axes) -> None:
    axes.set_xscale("symlog", linthresh=100)
    axes.set_xticks([0, 100, 400, 1000, 4000], ["0", "100", "400", "1k", "4k"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def draw_rho(rows: list[Row]) -> Figure:
    """ρ of each score with accuracy over the steps of training."""
    grid = trainings_of(rows, "barlow_twins")
    made, axes = panels(len(DRAWN) // 2, 8.4)
    steps = [step for step in h.readout_steps(grid) if step >= 100]
    for (name, label), own in zip(DRAWN.items(), axes, strict=True):
        value, low, high = np.array([rho(name, grid, step) for step in steps]).T
        own.plot(steps, value, "o-", ms=4, color="C3" if name.startswith("alpha") else "C0")
        own.fill_between(steps, low, high, alpha=0.2, color="0.4", lw=0)
        own.axhline(0, color="0.3", lw=1)
        turn = h.turn(grid, name) if name.startswith("alpha") else None
        if turn is not None:
            own.axvline(turn, color="0.3", ls="--", lw=1)
            own.text(turn * 0.92, -0.95, "turn", ha="right")
        own.set(title=label, ylim=(-1.05, 1.05))
        steps_axis(own)
        own.set_xlim(90, LAST * 1.1)
    made.supxlabel("optimizer step")
    made.supylabel("ρ with accuracy at that step")
    return made


def draw_courses(rows: list[Row]) -> Figure:
    """α of each training in two windows, less α before it, coloured by its final accuracy."""
    groups: dict[tuple[str, str], list[Training]] = {}
    for training in (t for name in PLANNED for t in trainings_of(rows, name)):
        kind = training[0]["images"], training[0]["backbone"]
        groups.setdefault(kind, []).append(training)
    made = Figure(figsize=(WIDTH, 7.6 * len(groups)), layout="constrained", dpi=120)
    axes = made.subplots(2 * len(groups), 1, sharex=True, squeeze=False)
    for (images, backbone), pair in zip(sorted(groups), axes.reshape(-1, 2), strict=True):
        every = groups[images, backbone]
        last = ", ".join(f"4–{n:.0f}" for n in sorted({t[0]["last_rank"] for t in every}))
        for own, key, ranks in zip(pair, ("alpha", "alpha_2_50"), (last, "2–50"), strict=True):
            colours = coloured_courses(own, every, key)
            own.set_title(f"{len(every)} on {images}, {backbone}, ranks {ranks}", fontsize=10)
        made.colorbar(colours, ax=pair.tolist(), label="final accuracy in %")
    made.supxlabel("optimizer step (dashed: failing, M1)")
    made.supylabel("α (dotted: untrained)")
    return made


def draw_seeds(rows: list[Row]) -> Figure:
    """α over ranks 2–50 of each training of the grid and of other seeds, and its final accuracy."""
    every = [*trainings_of(rows, "barlow_twins"), *trainings_of(rows, "seeds")]
    made = Figure(figsize=(WIDTH, 4), layout="constrained", dpi=120)
    own = made.subplots()
    colours = coloured_courses(own, every, "alpha_2_50")
    made.colorbar(colours, ax=own, label="final accuracy in %")
    own.set(xlabel="optimizer step", ylabel="α over ranks 2–50")
    return made


def coloured_courses(own: Axes, every: Sequence[Training], key: str) -> ScalarMappable:
    colours = ScalarMappable(cmap="viridis")
    colours.set_array(accuracy(every))
    for training, colour in zip(every, colours.to_rgba(accuracy(every)), strict=True):
        course, style = sorted(training), "--" if mended.failing(training) else "-"
        own.plot(course, [training[step][key] for step in course], style, color=colour, lw=1.4)
    for untrained in {training[0][key] for training in every}:
        own.axhline(untrained, color="0.3", lw=1, ls=":")
    steps_axis(own)
    own.set_xlim(-5, LAST * 1.1)
    return colours


def draw_scatter(rows: list[Row]) -> Figure:
    """α and accuracy at four lengths of training."""
    grid = trainings_of(rows, "barlow_twins")
    made, axes = panels(2, 5.6)
    for step, own in zip(AT, axes, strict=True):
        widths = h.column("projector_dim", grid, step)
        for width, mark in zip(np.unique(widths), "os^", strict=False):
            part = widths == width
            alphas, values = h.column("alpha", grid, step)[part], accuracy(grid, step)[part]
            own.scatter(alphas, values, marker=mark, s=34, label=f"projector {width:,.0f}")
        own.axvline(1, color="0.3", lw=1, ls=":")
        if step == LAST:
            own.axvspan(1.4, 2.05, color="0.9", zorder=0)
        own.set_title(f"step {step:,}: ρ of nearness {h.number(rho('alpha', grid, step).value)}")
    made.supxlabel("α (dotted: 1; grey: the interval of H10)")
    made.supylabel("accuracy in %")
    made.legend(
        *own.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    return made


def draw_choices(rows: list[Row]) -> Figure:
    """Points that the choice of each score loses against the best model, at each length."""
    grid = trainings_of(rows, "barlow_twins")
    steps = [step for step in h.readout_steps(grid) if step >= 100]
    found = {step: accuracy(grid, step) for step in steps}
    lost = {
        label: [regret(criterion(name, grid, step), found[step]) for step in steps]
        for name, label in DRAWN.items()
    }
    orders = [h.in_order(grid, step) for step in steps]
    lost["several (H3)"] = [
        found[step].max() - found[step][order[0]] if order else math.nan
        for step, order in zip(steps, orders, strict=True)
    ]
    lost["at random, mean"] = [found[step].max() - found[step].mean() for step in steps]
    labels = [f"{step:,}\n({found[step].max():.0f} %)" for step in steps]
    made = Figure(figsize=(WIDTH, 4.6), layout="constrained", dpi=120)
    own, values = made.subplots(), np.array(list(lost.values()))
    own.imshow(values, cmap="YlOrRd", aspect="auto", vmin=0, vmax=max(10, np.nanmax(values)))
    for (i, j), value in np.ndenumerate(values):
        dark = value > 0.6 * max(10, np.nanmax(values))
        text = "none" if math.isnan(value) else f"{value:.1f}"
        own.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    own.set_xticks(range(len(steps)), labels)
    own.set_yticks(range(len(lost)), lost)
    own.set_xlabel("optimizer step (accuracy of the best model)")
    return made


DRAWINGS: dict[str, Callable[[list[Row]], Figure]] = {
    "rho": draw_rho,
    "seeds": draw_seeds,
    "courses": draw_courses,
    "scatter": draw_scatter,
    "choices": draw_choices,
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows, told = rows_of(), all_answers()
    write_table(rows)
    PAGE.write_text(page(rows, told), encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    README.write_text(rendered(readme, {"chosen": lambda: chosen(rows, told)}), encoding="utf-8")
    with matplotlib.rc_context(SIZES):
        for name, draw in DRAWINGS.items():
            path = PAGE.with_name(f"long_study_{name}.png")
            draw(rows).savefig(path, metadata={"Software": None})
    history: list[AlphaRecord] = []
    for record in records_of(SHOWN):
        history.append(with_course(record, history)[0])
    spectrum_figure(history[-1], history[:-1]).savefig(PAGE.with_name("demo_spectrum.png"))
    course_figure(history).savefig(PAGE.with_name("demo_course.png"))
    print(f"wrote {PAGE} and {len(DRAWINGS) + 2} figures")


if __name__ == "__main__":
    main()
