"""H1 to H14 of ``HYPOTHESES.md``, from the rows of `study.table` alone.

Left open by the page, and decided before more than four trainings were looked at:

* A claim is each sentence with a threshold of its own: H1, H2, H4, H8 and H11 have several.
* An undefined correlation (a side that does not vary) leaves a claim *not tested*.
* A failed readout, empty where other trainings of the group have one, counts as 0 %. A criterion
  without a value counts as worst, not α alone.
* H1: steps from 100 on can be the turn; before the first step all networks of a seed are one.
* H2: with no training that learnt, or fewer than three that did not, both claims are not tested.
* H3: each bootstrap orders what it drew anew, copies count, its ties are a quarter of all that was
  drawn, the choice among them; where nothing drawn has turned they hold nothing. Equal mean ranks:
  the smaller E first. Seed 0, as for the intervals.
* H6: the best readout step may be the untrained network's; "always the last" is of the same
  trainings. Of steps equally near to 1 the earlier.
* H7: who is failing or collapsed stays in the subset, whose best may be one of them. With 16
  trainings or fewer there is no subset: not tested. Seed 0.
* H8: standard deviations have n − 1; settings with two seeds or more count. That of E is a share of
  its mean.
* H11: α that is missing is not larger. H14: of fewer than 24 trainings, three quarters.
* H12: a projector with fewer than three trainings has no ρ; with one projector it is not tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from alphareq_lightning.metrics.scores import better
from experiments.interval_search import WITHIN
from study.correlation import (
    Correlation,
    Numbers,
    consensus,
    correlation,
    kendall,
    regret,
    resamples,
    spearman,
)
from study.table import PLANNED, TURNED, Row, of_course

LENGTHS = (100, 400, 1000, 2000, 4000)
LAST = 4000
ALIKE = ("twins_error", "rankme", "selfcluster")
"""The criteria that H3 orders by."""
FEWEST = 5
"""Trainings below which no interval is shown: resamples of fewer are mostly copies."""
DRAWS = 1000
"""Bootstraps of H3, subsets of H7."""
SUBSET, READOUTS, AT_RANDOM = 16, 3, 10

Truths = NDArray[np.bool_]
Training = dict[int, Row]
"""Rows of one layer by step."""


class Claim(NamedTuple):
    """A sentence of the page, its figure, and whether it is met: `None` if it is not tested."""

    name: str
    says: str
    figure: str
    met: bool | None
    why: str = ""
    """Why it is not tested."""

    def outcome(self, count: int, planned: int) -> str:
        """In words; nothing is decided before all planned trainings are there."""
        word = {True: "met", False: "refuted", None: f"not tested: {self.why}"}[self.met]
        return word if count >= planned else f"preliminary, {count} of {planned}; now: {word}"


def trainings_of(rows: Sequence[Row], experiment: str, layer: str = "backbone") -> list[Training]:
    """The trainings of an experiment, each with the rows of a layer by step."""
    found: dict[str, Training] = {}
    for row in rows:
        if (row["experiment"], row["layer"]) == (experiment, layer):
            found.setdefault(row["training"], {})[int(row["step"])] = row
    return list(found.values())


def column(name: str, trainings: Sequence[Training], step: int) -> Numbers:
    return np.array([training[step][name] for training in trainings])


def criterion(name: str, trainings: Sequence[Training], step: int) -> Numbers:
    """A column, more is better: of α how near it is to 1. What is missing is worst."""
    values = column(name, trainings, step)
    if name.startswith("alpha_") or name == "alpha":
        values = -np.abs(values - 1)
    elif "loss" in name or better(name) == "lower":
        values = -values
    return np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def accuracy(trainings: Sequence[Training], step: int = LAST, name: str = "top1") -> Numbers:
    """Of the readout, in percent."""
    return np.nan_to_num(column(name, trainings, step), nan=0.0)


def rho(
    name: str,
    trainings: Sequence[Training],
    step: int,
    of: str = "top1",
    measure: Callable[[Numbers, Numbers], Correlation] = correlation,
) -> Correlation:
    """Rank correlation of a criterion and the accuracy at the same step."""
    found = measure(criterion(name, trainings, step), accuracy(trainings, step, of))
    value = round(found.value, 12)  # a threshold that is met exactly is met
    return Correlation(value, *(found[1:] if len(trainings) >= FEWEST else [math.nan] * 2))


def tau(name: str, trainings: Sequence[Training], step: int) -> Correlation:
    return rho(name, trainings, step, measure=kendall)


def readout_steps(trainings: Sequence[Training]) -> list[int]:
    return sorted({s for t in trainings for s, row in t.items() if math.isfinite(row["top1"])})


def phases(trainings: Sequence[Training], step: int = LAST) -> list[str]:
    return [training[step]["phase"] for training in trainings]


def has_turned(trainings: Sequence[Training], step: int = LAST) -> Truths:
    return np.array([phase in TURNED for phase in phases(trainings, step)])


def learnt(trainings: Sequence[Training]) -> Truths:
    """By the readouts: which trainings ended well above the start, and not below their way."""
    steps = readout_steps(trainings)
    early = np.max([accuracy(trainings, step) for step in steps if step <= 2000], axis=0)
    last = accuracy(trainings)
    return np.asarray((last >= accuracy(trainings, 0) + 5) & (last >= early - 2))


def peak_step(training: Training) -> int:
    """Where α was largest, from step 100 on."""
    return int(max(of_course(list(training.values())), key=lambda row: row["alpha"])["step"])


def turn(trainings: Sequence[Training], name: str = "alpha") -> int | None:
    """The first readout step from which on ρ of nearness is above 0 for good."""
    found = None
    for step in reversed([step for step in readout_steps(trainings) if step >= 100]):
        if not rho(name, trainings, step).value > 0:
            break
        found = step
    return found


def number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")  # no minus before 0.00


def shown(found: Correlation) -> str:
    if math.isnan(found.value):
        return "undefined"
    interval = f" [{number(found.low)}, {number(found.high)}]" if math.isfinite(found.low) else ""
    return number(found.value) + interval


def setting(row: Row) -> str:
    """What the grid varies."""
    return "λ = {lambd:g}, projector {projector_dim:,.0f}".format(**row)


def _claim(name: str, says: str, figure: str, met: bool, *needed: float) -> Claim:
    """A claim that needs some correlations to be defined."""
    if any(math.isnan(value) for value in needed):
        return Claim(name, says, figure, None, "a correlation is undefined")
    return Claim(name, says, figure, bool(met))


def h1(trainings: list[Training]) -> list[Claim]:
    early, late = (rho("alpha", trainings, step) for step in (LENGTHS[0], LAST))
    from_step, needed = turn(trainings), (early.value, late.value)
    met = early.value < 0 and late.value >= 0.6
    figure = "never" if from_step is None else f"from step {from_step:,} on"
    says = "ρ(nearness) is above 0 for good from step 1,000 or 2,000 on"
    return [
        _claim("H1", "ρ(nearness) < 0 at step 100 and ≥ .6 at step 4,000",
               f"{shown(early)}; {shown(late)}", met, *needed),
        _claim("H1", says, figure, from_step in (1000, 2000), *needed),
    ]  # fmt: skip


def balanced_accuracy(trainings: Sequence[Training]) -> float:
    """Of "turned" as a prediction of "learnt"; NaN if all or none learnt."""
    fate, said = learnt(trainings), has_turned(trainings)
    if fate.all() or not fate.any():
        return math.nan
    return float(((said[fate]).mean() + (~said[~fate]).mean()) / 2)


def h2(trainings: list[Training]) -> list[Claim]:
    fate, early = learnt(trainings), np.array(phases(trainings, 400)) == "failing"
    says = (
        "at 4,000 *turned* tells what learnt: balanced accuracy ≥ .9",
        "*failing* at 400 names ≥ 80 % of those that did not learn, ≤ 10 % of those that did",
    )
    if (~fate).sum() < 3 or not fate.any():
        why = f"{(~fate).sum()} did not learn, {fate.sum()} did"
        return [Claim("H2", text, "–", None, why) for text in says]
    balanced, hit, wrong = balanced_accuracy(trainings), early[~fate].mean(), early[fate].mean()
    figures = (f"{balanced:.2f}", f"{hit:.0%}; {wrong:.0%}")
    met = (balanced >= 0.9, hit >= 0.8 and wrong <= 0.1)
    return [Claim("H2", *claim) for claim in zip(says, figures, map(bool, met), strict=True)]


def together(
    trainings: Sequence[Training], step: int = LAST, names: Sequence[str] = ALIKE
) -> Numbers:
    """The mean of the ranks by some criteria, more is better."""
    return consensus([criterion(name, trainings, step) for name in names])


def order_of(
    trainings: Sequence[Training], step: int = LAST, names: Sequence[str] = ALIKE
) -> list[int]:
    """Best first by criteria together; equal ones by the first of these."""
    keys = (-criterion(names[0], trainings, step), -together(trainings, step, names))
    order: list[int] = np.lexsort(keys).tolist()
    return order


def in_order(trainings: Sequence[Training], step: int = LAST) -> list[int]:
    """Those that have turned, best first by the mean of the ranks; equal ones by E."""
    candidates = np.flatnonzero(has_turned(trainings, step))
    chosen = [trainings[i] for i in candidates]
    order: list[int] = candidates[order_of(chosen, step)].tolist() if chosen else []
    return order


def h3(trainings: list[Training]) -> list[Claim]:
    values, order = accuracy(trainings), in_order(trainings)
    says = "the choice loses ≤ 2 points, and in ≥ 90 % of bootstraps its ties hold the best"
    if not order:
        return [Claim("H3", says, "–", None, "no training has turned")]
    lost, ties, held = values.max() - values[order[0]], math.ceil(len(trainings) / 4), 0
    for draw in resamples(len(trainings), DRAWS):
        own = draw[in_order([trainings[i] for i in draw])[:ties]]
        held += bool(np.isin(values[draw].max(), values[own]))
    met = bool(lost <= 2 and held / DRAWS >= 0.9)
    return [Claim("H3", says, f"{lost:.2f} points; {held / DRAWS:.1%}", met)]


def h4(trainings: list[Training]) -> list[Claim]:
    def values(name: str) -> list[float]:
        return [rho(name, trainings, step).value for step in LENGTHS]

    def claim(says: str, found: list[float], met: bool) -> Claim:
        return _claim("H4", says, ", ".join(map(number, found)), met, *found)

    error, cluster, rank = map(values, ("twins_error", "selfcluster", "rankme"))
    well = [t for t, fate in zip(trainings, learnt(trainings), strict=True) if fate]
    among = rho("twins_error", well, LAST) if well else Correlation(*[math.nan] * 3)
    return [
        claim("ρ(−E) ≥ .8 at each length", error, min(error) >= 0.8),
        claim("ρ(−SelfCluster) ≥ .7 at each length", cluster, min(cluster) >= 0.7),
        claim("ρ(RankMe) < 0 at 100, ≥ .7 from 400 on", rank, rank[0] < 0 and min(rank[1:]) >= 0.7),
        _claim("H4", f"among the {len(well)} that learnt ρ(−E) ≥ .5 at 4,000", shown(among),
               among.value >= 0.5, among.value),
    ]  # fmt: skip


def h5(trainings: list[Training]) -> list[Claim]:
    names, other = ("alpha", *ALIKE), "other_top1"
    says = "ρ out of distribution differs by ≤ .15 for nearness, −E, RankMe and −SelfCluster, and"
    says += " −E's choice loses ≤ 10 % of the best there"
    if not np.isfinite(column(other, trainings, LAST)).any():
        return [Claim("H5", says, "–", None, "no readout on other images")]
    apart = [
        abs(rho(name, trainings, LAST, other).value - rho(name, trainings, LAST).value)
        for name in names
    ]
    there = accuracy(trainings, LAST, other)
    lost = regret(criterion("twins_error", trainings, LAST), there) / there.max()
    figure = f"{', '.join(map(number, apart))}; {lost:.1%}"
    return [_claim("H5", says, figure, max(apart) <= 0.15 and lost <= 0.1, *apart)]


def chosen_step(training: Training, steps: Sequence[int]) -> int | None:
    """The checkpoint that H6 keeps of one training, of the steps that were read out."""
    phase = training[LAST]["phase"]
    if phase in ("collapsed", "unknown"):
        return None
    if phase == "warming up":
        return max(steps)
    after = 99 if phase == "failing" else peak_step(training)
    near = {s: criterion("alpha", [training], s)[0] for s in steps if s > after}
    return max(near, key=near.__getitem__)


def checkpoint_losses(trainings: Sequence[Training]) -> tuple[Numbers, Numbers]:
    """Points that the kept checkpoint, and the last, lose against the best of the same training."""
    steps = readout_steps(trainings)
    kept = [(t, s) for t in trainings if (s := chosen_step(t, steps)) is not None]
    best = np.array([max(accuracy([t], s)[0] for s in steps) for t, _ in kept])
    own, last = ([accuracy([t], s)[0] for t, s in kept], [accuracy([t])[0] for t, _ in kept])
    return best - own, best - last


def h6(trainings: list[Training]) -> list[Claim]:
    says = "the kept checkpoint loses ≤ 1 point in ≥ 90 % of trainings, and less than the last"
    own, last = checkpoint_losses(trainings)
    if not len(own):
        return [Claim("H6", says, "–", None, "no training has a choice")]
    share = (own <= 1).mean()
    figure = f"{share:.0%} of {len(own)}; {own.mean():.2f} against {last.mean():.2f} points"
    return [Claim("H6", says, figure, bool(share >= 0.9 and own.mean() < last.mean()))]


class Budget(NamedTuple):
    """How often readouts find a model within one point of a subset's best."""

    three: float
    by_chance: dict[int, float]
    """By the number of readouts, of models drawn at random."""


def budget(trainings: Sequence[Training]) -> Budget | None:
    """Over random subsets; `None` where there are too few trainings for them."""
    if len(trainings) <= SUBSET:
        return None
    draws, values = np.random.default_rng(0), accuracy(trainings)
    alive = ~np.isin(phases(trainings), ("failing", "collapsed"))
    orders = [criterion(name, trainings, LAST) for name in ("twins_error", "rankme", "alpha")]
    found, counts = [], (1, READOUTS, 5, AT_RANDOM)
    chances: list[list[float]] = []
    for _ in range(DRAWS):
        subset = draws.choice(len(trainings), SUBSET, replace=False)
        read: list[int] = []
        for order in orders:
            left = [i for i in subset if alive[i] and i not in read]
            read += sorted(left, key=lambda i: -order[i])[:1]
        near = values[subset].max() - WITHIN
        found.append(bool((values[read] >= near).any()))
        good = int((values[subset] >= near).sum())
        chances.append([float(hypergeom.sf(0, SUBSET, good, count)) for count in counts])
    means = np.mean(chances, axis=0).tolist()
    return Budget(float(np.mean(found)), dict(zip(counts, means, strict=True)))


def h7(trainings: list[Training]) -> list[Claim]:
    says = "three readouts (by −E, RankMe, nearness) come within a point of the best in ≥ 80 % of "
    says += "1,000 subsets of 16, and more often than ten at random"
    found = budget(trainings)
    if found is None:
        return [Claim("H7", says, "–", None, f"subsets of {SUBSET} need more trainings")]
    chance = found.by_chance[AT_RANDOM]
    met = found.three >= 0.8 and found.three > chance
    return [Claim("H7", says, f"{found.three:.1%} against {chance:.1%}", met)]


def seed_spread(first: list[Training], others: list[Training]) -> dict[str, dict[str, float]]:
    """Standard deviations between the seeds of each setting that has several."""
    groups: dict[str, list[Training]] = {}
    for training in (*first, *others):
        groups.setdefault(setting(training[LAST]), []).append(training)
    found = {}
    for name, group in groups.items():
        if len(group) > 1:
            alpha, error = (column(name, group, LAST) for name in ("alpha", "twins_error"))
            spreads = (np.std(values, ddof=1) for values in (accuracy(group), alpha, error))
            found[name] = dict(zip(("accuracy", "alpha", "error"), spreads, strict=True))
            found[name] |= {"seeds": len(group), "error": found[name]["error"] / error.mean()}
    return found


def h8(first: list[Training], others: list[Training]) -> list[Claim]:
    spreads = list(seed_spread(first, others).values())
    limits = {
        "accuracy": (1, "1 point of accuracy"),
        "alpha": (0.05, ".05 of α"),
        "error": (0.05, "5 % of E"),
    }
    found = []
    for name, (limit, what) in limits.items():
        says = f"standard deviation between seeds, median: ≤ {what}"
        values = [spread[name] for spread in spreads]
        median = float(np.median(values)) if values else math.nan
        figure = "–" if math.isnan(median) else f"{median:.3f} over {len(values)} settings"
        met = None if math.isnan(median) else median <= limit
        found.append(Claim("H8", says, figure, met, "no setting has values of two seeds"))
    return found


def h9(trainings: list[Training]) -> list[Claim]:
    pairs = [
        [rho(name, trainings, step).value for name in ("alpha_2_50", "alpha")]
        for step in LENGTHS[-3:]
    ]
    met = all(a >= b for a, b in pairs) and sum(a > b for a, b in pairs) >= 2
    figure = ", ".join(f"{number(a)} against {number(b)}" for a, b in pairs)
    says = "ρ(nearness) over ranks 2–50 ≥ that over 4–51 at 1,000, 2,000, 4,000; higher at two"
    return [_claim("H9", says, figure, met, *np.ravel(pairs))]


def h10(trainings: list[Training]) -> list[Claim]:
    values, alphas = accuracy(trainings), column("alpha", trainings, LAST)
    inside = (alphas >= 1.4) & (alphas <= 2.05)
    good, poor = values >= values.max() - 3, values <= values.max() - 5
    figure = f"{(good & inside).sum()} of {good.sum()} inside; {(poor & inside).sum()} poor inside"
    says = "all within 3 points of the best have α from 1.4 to 2.05; one there is ≥ 5 points below"
    return [Claim("H10", says, figure, bool(inside[good].all() and (poor & inside).any()))]


def h11(trainings: list[Training]) -> list[Claim]:
    steps, falls = readout_steps(trainings), []
    fate, turned = learnt(trainings), has_turned(trainings)
    for training in (trainings[i] for i in np.flatnonzero(fate & turned)):
        late = [step for step in steps if step >= max(400, peak_step(training))]
        if len(late) >= 3:
            course = [np.nan_to_num([training[s][key] for s in late]) for key in ("alpha", "top1")]
            falls.append(spearman(*course) < 0)
    lost = [trainings[i] for i in np.flatnonzero(~fate)]
    rises = [training[LAST]["alpha"] > training[400]["alpha"] for training in lost]
    says = {
        "where it learnt and turned, α falls as accuracy rises (ρ < 0) in ≥ 80 %": falls,
        "where it did not learn, α(4,000) > α(400) in ≥ 80 %": rises,
    }
    return [
        Claim("H11", text, f"{np.mean(held):.0%} of {len(held)}", bool(np.mean(held) >= 0.8))
        if held
        else Claim("H11", text, "–", None, "there is no such training")
        for text, held in says.items()
    ]


def h12(trainings: list[Training]) -> list[Claim]:
    widths = column("projector_dim", trainings, LAST)
    groups = [
        [t for t, w in zip(trainings, widths, strict=True) if w == own] for own in set(widths)
    ]
    within = [rho("twins_error", group, LAST).value for group in groups if len(group) >= 3]
    error, loss = (rho(name, trainings, LAST) for name in ("twins_error", "loss"))
    says = "ρ(−E) over all ≥ the smallest within one projector − .1, and ρ(−loss) ≤ .65"
    if len(groups) < 2 or not within:
        return [Claim("H12", says, "–", None, "it needs two projectors")]
    least = min(within)
    figure = f"{shown(error)}, the smallest {number(least)}; {shown(loss)}"
    met = error.value >= least - 0.1 and loss.value <= 0.65
    return [_claim("H12", says, figure, met, error.value, loss.value, *within)]


def h13(trainings: list[Training], before: list[Training]) -> list[Claim]:
    pairs = [
        [rho("alpha", layer, step).value for layer in (before, trainings)]
        for step in (LENGTHS[0], LAST)
    ]
    figure = "; ".join(f"{number(a)} and {number(b)}" for a, b in pairs)
    says = "ρ(nearness) of `backbone.stages.2` has the sign of `backbone`'s at 100 and 4,000"
    return [_claim("H13", says, figure, all(a * b > 0 for a, b in pairs), *np.ravel(pairs))]


def h14(trainings: list[Training]) -> list[Claim]:
    told = np.isin(phases(trainings, 400), ("warming up", "failing", "collapsed"))
    says = "at step 400 at least 18 of 24 are warming up, failing or collapsed"
    return [Claim("H14", says, f"{told.sum()} of {len(told)}", bool(told.mean() >= 18 / 24))]


REPEATED = (h1, h2, h4, h9)
"""Those that other experiments repeat with the same thresholds."""


class Part(NamedTuple):
    """Some trainings, and what the hypotheses say of them."""

    name: str
    count: int
    planned: int
    claims: list[Claim]

    @property
    def preliminary(self) -> bool:
        return self.count < self.planned


def tested(rows: Sequence[Row]) -> list[Part]:
    """Every hypothesis on the grid, on its widest projector alone, and where it is repeated.

    Parts of fewer than two trainings are left out.
    """

    def grid(name: str, planned: int, of_seeds: int, width: float | None = None) -> list[Part]:
        found = (
            ("barlow_twins", "backbone"),
            ("barlow_twins", "backbone.stages.2"),
            ("seeds", "backbone"),
        )
        own, before, seeds = (
            [t for t in trainings_of(rows, *key) if width in (None, t[LAST]["projector_dim"])]
            for key in found
        )
        if len(own) < 2:
            return []
        claims = [claim for h in (h1, h2, h3, h4, h5, h6, h7) for claim in h(own)]
        later = [claim for h in (h9, h10, h11, h12) for claim in h(own)]
        later += [*h13(own, before), *h14(own)]
        parts = [Part(name, len(own), planned, claims + later)]
        if seeds:
            parts.append(Part(f"seeds of {name}", len(seeds), of_seeds, h8(own, seeds)))
        return parts

    parts = grid("the grid", PLANNED["barlow_twins"], PLANNED["seeds"])
    parts += grid("projector 1,024 alone", 8, 6, 1024)
    for name in ("tiny_imagenet", "rate_decay"):
        own = trainings_of(rows, name)
        if len(own) > 1:
            claims = [claim for h in REPEATED for claim in h(own)]
            parts.append(Part(name, len(own), PLANNED[name], claims))
    return parts
