"""M1 to M9 and N1 to N9 of ``HYPOTHESES.md``, found on some trainings, tested on others; and G1.

Left open by the page, and decided before any of the others had ended (of M9: all but two):

* All share the reading of H1 to H14: what is missing is worst, a failed readout is 0 %.
* A record without a fit is neither in A nor failing.
* M2: with nobody alive, or nobody failing, that sentence is not tested.
* M3, M9: equal mean ranks: the smaller E first, as in H3. The best of all may be failing.
* M9: it is the five alive at each of its lengths that count; of equal RankMe the first.
* N1, N3, N6: an experiment of which fewer than two trainings are there counts for none.
* N7: of equal correlations neither is below the other; an undefined one leaves it not tested.

Decided when five of `tiny_imagenet` had ended (errata of N5), of N6 before its trainings:

* M2, M8, M9, N6: where no training learnt, nobody could lose points, and they are not tested; M3
  is told by its correlation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from study.correlation import spearman
from study.hypotheses import (
    ALIKE,
    FEWEST,
    LAST,
    Claim,
    Part,
    Training,
    Truths,
    accuracy,
    learnt,
    number,
    order_of,
    readout_steps,
    rho,
    together,
    trainings_of,
)
from study.table import PLANNED, TURNED, Row, of_course

AT = (1000, 2000, 4000)
OF_GRID = "nine of the grid"
IN_POINTS = ("M2", "M8", "M9", "N6")
OTHERS, KINDS = "other kinds", ("simclr", "vicreg", "vit")
LATER = KINDS[1:]
"""Without SimCLR, on which N8 and N9 were found."""
REPEATED = "on_cpu"
"""Trainings of `rate_decay`, which was trained on a GPU, again on a CPU core."""
BELOW = "α over 2–50 below the untrained one's tells who is within 5 points of"
LEVEL = 1.85
ABOVE_UNTRAINED, KEPT_RANKME = 0.2, 0.8
FOUND_ON = {(lambd, width) for lambd in (0.0001, 0.0287, 2.0) for width in (64, 256, 1024)}
FOUND_ON |= {(lambd, 256) for lambd in (0.000412, 0.00169, 0.00697, 0.118, 0.486)}
FOUND_ON |= {(0.118, 1024)}
"""λ and projector of the trainings of the grid that were in view."""


def failing(training: Training, step: int = LAST) -> bool:
    """Whether α is above that of the untrained network and RankMe below its largest value."""
    now, past = training[step], of_course([training[s] for s in sorted(training) if s <= step])
    if len(past) < 2:
        return False
    rises = now["alpha"] > training[0]["alpha"] + ABOVE_UNTRAINED
    return bool(rises and now["rankme"] < KEPT_RANKME * max(row["rankme"] for row in past))


def fails(trainings: Sequence[Training], step: int = LAST) -> Truths:
    return np.array([failing(training, step) for training in trainings], dtype=bool)


def lives(training: Training, step: int = LAST) -> bool:
    """Whether it is neither failing nor collapsed."""
    return training[step]["phase"] != "collapsed" and not failing(training, step)


def alive(trainings: Sequence[Training], step: int = LAST) -> list[Training]:
    return [training for training in trainings if lives(training, step)]


def m1(trainings: list[Training]) -> Claim:
    says = "*failing* at 1,000 and at 4,000 names ≥ 80 % of those that did not learn, ≤ 10 % of "
    says += "those that did"
    fate, figures, met = learnt(trainings), [], True
    if (~fate).sum() < 3 or not fate.any():
        return Claim("M1", says, "–", None, f"{(~fate).sum()} did not learn, {fate.sum()} did")
    for step in (AT[0], LAST):
        named = fails(trainings, step)
        hit, wrong = named[~fate], named[fate]
        figures.append(f"{hit.sum()} of {hit.size}, {wrong.sum()} of {wrong.size}")
        met = met and bool(hit.mean() >= 0.8 and wrong.mean() <= 0.1)
    return Claim("M1", says, "; ".join(figures), met)


def m2(trainings: list[Training]) -> list[Claim]:
    own, bad = alive(trainings), [t for t in trainings if failing(t)]
    steps = readout_steps(trainings)
    trained = [step for step in steps if step >= 100]
    lost = [best(t, steps) - accuracy([t])[0] for t in own]
    gained = [best(t, trained) - accuracy([t], 0)[0] for t in bad]
    return [
        _share("M2", "alive: the last loses ≤ 1 point against the best step", lost, 0.9),
        _share("M2", "failing: no step gains > 1 point on the untrained network", gained, 0.8),
    ]


def best(training: Training, steps: Sequence[int]) -> float:
    """Accuracy of the best of some readout steps."""
    return max(float(accuracy([training], step)[0]) for step in steps)


def _share(name: str, says: str, points: list[float], least: float) -> Claim:
    says = f"{says}, in ≥ {least:.0%} of these"
    if not points:
        return Claim(name, says, "–", None, "there is no such training")
    held = np.array(points) <= 1
    return Claim(name, says, f"{held.sum()} of {held.size}", bool(held.mean() >= least))


def _at_each_length(
    name: str,
    says: str,
    trainings: Sequence[Training],
    judge: Callable[[list[Training], int], tuple[str, bool]],
    among: Callable[[Sequence[Training], int], list[Training]] = alive,
) -> Claim:
    """A claim that has to hold at 1,000, 2,000 and 4,000, among five trainings or more."""
    groups = {step: among(trainings, step) for step in AT}
    fewest = min(map(len, groups.values()))
    if fewest < FEWEST:
        return Claim(name, says, "–", None, f"only {fewest} trainings")
    figures, held = zip(*(judge(group, step) for step, group in groups.items()), strict=True)
    return Claim(name, says, ", ".join(figures), all(held))


def m3(trainings: list[Training]) -> Claim:
    def judge(group: list[Training], step: int) -> tuple[str, bool]:
        values = accuracy(group, step)
        found = round(float(spearman(together(group, step), values)), 12)
        lost = accuracy(trainings, step).max() - values[order_of(group, step)[0]]
        cheap = lost <= 2 or not learnt(trainings).any()
        return f"{number(found)} and {lost:.2f}", found >= 0.8 and cheap

    says = "among those alive −E, RankMe and −SelfCluster together have ρ ≥ .8 and lose ≤ 2 points"
    return _at_each_length("M3", f"{says} at 1,000, 2,000, 4,000", trainings, judge)


def m4(trainings: list[Training]) -> Claim:
    def judge(group: list[Training], step: int) -> tuple[str, bool]:
        found = [rho(name, group, step).value for name in ("rankme", "selfcluster")]
        return " and ".join(map(number, found)), min(found) >= 0.7

    says = "among those alive ρ(RankMe) and ρ(−SelfCluster) ≥ .7 at each"
    return _at_each_length("M4", says, trainings, judge)


def _rho_at_each_length(
    name: str,
    says: str,
    trainings: Sequence[Training],
    score: str,
    holds: Callable[[float], bool],
    among: Callable[[Sequence[Training], int], list[Training]] = alive,
) -> Claim:
    """A claim about ρ of one score alone."""

    def judge(group: list[Training], step: int) -> tuple[str, bool]:
        found = rho(score, group, step).value
        return number(found), holds(found)

    return _at_each_length(name, says, trainings, judge, among)


def m5(trainings: list[Training]) -> Claim:
    says = "among those alive ρ(nearness) < .4 at each"
    return _rho_at_each_length("M5", says, trainings, "alpha", lambda found: found < 0.4)


def m6(before: list[Training]) -> Claim:
    says = "over all ρ(RankMe of `backbone.stages.2`) ≥ .8 at each"
    return _rho_at_each_length(
        "M6",
        says,
        before,
        "rankme",
        lambda found: found >= 0.8,
        lambda trainings, _: list(trainings),
    )


def m7(trainings: list[Training]) -> Claim:
    def judge(group: list[Training], step: int) -> tuple[str, bool]:
        wide, own = (rho(name, group, step).value for name in ("alpha_2_50", "alpha"))
        met = round(wide - own, 12) >= 0.2 and (step < LAST or wide >= 0.5)
        return f"{number(wide)} against {number(own)}", met

    says = "among those alive ρ(nearness) over 2–50 is ≥ .2 above 4–51 at each, and ≥ .5 at 4,000"
    return _at_each_length("M7", says, trainings, judge)


def near_the_best(trainings: Sequence[Training], best_of_all: float | None = None) -> Truths:
    """Whose accuracy ends within 5 points of the best one."""
    values = accuracy(trainings)
    return np.asarray(values >= (values.max() if best_of_all is None else best_of_all) - 5)


def below_untrained(trainings: Sequence[Training]) -> Truths:
    """Whose α over ranks 2–50 ends below that of its untrained network."""
    return np.array([t[LAST]["alpha_2_50"] < t[0]["alpha_2_50"] for t in trainings])


def m8(trainings: list[Training], best_of_all: float) -> Claim:
    good, below = near_the_best(trainings, best_of_all), below_untrained(trainings)
    return _told_near("M8", f"{BELOW} the best", good, below, 0.9)


def _told_near(name: str, says: str, good: Truths, named: Truths, least: float) -> Claim:
    says += f": balanced accuracy ≥ {str(least).lstrip('0')}"
    if min(good.sum(), (~good).sum()) < 2:
        return Claim(name, says, "–", None, f"{good.sum()} are, {(~good).sum()} are not")
    balanced = float((named[good].mean() + (~named[~good]).mean()) / 2)
    counts = f"{named[good].sum()} of {good.sum()}, {named[~good].sum()} of {(~good).sum()}"
    return Claim(name, says, f"{number(balanced)} ({counts})", balanced >= least)


def m9(trainings: list[Training]) -> Claim:
    says = "the first of those alive, by the three and by RankMe, loses ≤ 2 points where it has "
    says += "turned, from 200 on, and has turned at 4,000"
    groups = {step: alive(trainings, step) for step in (200, 400, *AT)}
    fewest = min(map(len, groups.values()))
    if fewest < FEWEST:
        return Claim("M9", says, "–", None, f"only {fewest} trainings")
    figures, met = [], True
    for names in (ALIKE, ("rankme",)):
        told = []
        for step, group in groups.items():
            first = group[order_of(group, step, names)[0]]
            lost = accuracy(trainings, step).max() - accuracy([first], step)[0]
            turned = first[step]["phase"] in TURNED
            told.append(f"{lost:.2f}" if turned else "–")
            met = met and bool(lost <= 2 if turned else step < LAST)
        figures.append(" ".join(told))
    return Claim("M9", says, "; ".join(figures), met)


def n1(trainings: list[Training]) -> list[Claim]:
    fate, named = learnt(trainings), fails(trainings)
    says = {
        "*failing* at 4,000 names ≤ 10 % of those that learnt": (named[fate], 5, 0.0, 0.1),
        "*failing* at 4,000 names ≥ 80 % of those that did not": (named[~fate], 3, 0.8, 1.0),
    }
    return [
        Claim("N1", text, f"{hit.sum()} of {hit.size}", bool(low <= hit.mean() <= high))
        if hit.size >= fewest
        else Claim("N1", text, "–", None, f"there are {hit.size}")
        for text, (hit, fewest, low, high) in says.items()
    ]


def n2(name: str, trainings: list[Training]) -> Claim:
    return _first_alive("N2", f"{name}: the first of those alive, by the three,", trainings, ALIKE)


def _first_alive(name: str, says: str, trainings: list[Training], criteria: Sequence[str]) -> Claim:
    """A claim about what is lost by the first of those alive at the end."""
    says += " loses ≤ 2 points"
    group = alive(trainings)
    if not group:
        return Claim(name, says, "–", None, "none is alive")
    lost = accuracy(trainings).max() - accuracy(group)[order_of(group, LAST, criteria)[0]]
    return Claim(name, says, f"{lost:.2f} points", bool(lost <= 2))


def n3(groups: Sequence[list[Training]]) -> Claim:
    good, below = _of_all(groups, near_the_best), _of_all(groups, below_untrained)
    return _told_near("N3", f"{BELOW} the best of its six", good, below, 0.8)


def _of_all(
    groups: Sequence[list[Training]], which: Callable[[Sequence[Training]], Truths]
) -> Truths:
    return np.concatenate([which(own) for own in groups])


def n4(trainings: list[Training]) -> Claim:
    says = "among those alive ρ(−uniformity) ≥ .7 at each"
    return _rho_at_each_length("N4", says, trainings, "uniformity", lambda found: found >= 0.7)


def n5(trainings: list[Training]) -> Claim:
    says = "among those alive ρ(nearness) over ranks 11–100 ≤ −.5 at each"
    return _rho_at_each_length("N5", says, trainings, "alpha_11_100", lambda found: found <= -0.5)


def low(trainings: Sequence[Training]) -> Truths:
    """Who is alive with α over ranks 2–50 at or below `LEVEL`."""
    return np.array([lives(t) and t[LAST]["alpha_2_50"] <= LEVEL for t in trainings])


def n6(groups: Sequence[list[Training]], least: float) -> Claim:
    says = "alive with α over 2–50 ≤ 1.85 tells who is within 5 points of the best of its kind"
    return _told_near("N6", says, _of_all(groups, near_the_best), _of_all(groups, low), least)


def n7(name: str, trainings: list[Training]) -> Claim:
    wide, own = (rho(score, trainings, LAST).value for score in ("alpha_2_50", "alpha"))
    says = f"{name}: ρ(nearness) over 2–50 at 4,000 is above 0, and not below that over `auto`"
    figure = f"{number(wide)} against {number(own)}"
    if np.isnan([wide, own]).any():
        return Claim("N7", says, figure, None, "a correlation is undefined")
    return Claim("N7", says, figure, bool(wide > 0 and wide >= own))


def without_points(claim: Claim) -> Claim:
    """What may be said where no training learnt."""
    if claim.name not in IN_POINTS:
        return claim
    return claim._replace(met=None, why="by this readout nobody learnt")


def n8(name: str, trainings: list[Training]) -> list[Claim]:
    scores, says = {"rankme": "RankMe", "alpha": "nearness over `auto`"}, f"{name}: the first of"
    return [
        _first_alive("N8", f"{says} those alive by {label} alone", trainings, (score,))
        for score, label in scores.items()
    ]


def n9(name: str, lost: float | None) -> Claim:
    """Of what the verdict of the package loses."""
    says = f"{name}: where the package's verdict chooses at 4,000 it loses ≤ 2 points"
    if lost is None:
        return Claim("N9", says, "–", None, "it makes no choice")
    return Claim("N9", says, f"{lost:.2f} points", lost <= 2)


def g1(pairs: Sequence[tuple[Training, Training]]) -> Claim:
    """How far trainings are from those with the same rate and decay on another machine."""
    says = "again on a CPU core: at 4,000 α differs by ≤ .1, accuracy by ≤ 2 points, E by ≤ 8 %"
    figures, met = [], True
    for own, other in ((here[LAST], there[LAST]) for here, there in pairs):
        apart = [abs(own[name] - other[name]) for name in ("alpha", "top1", "twins_error")]
        apart[2] /= other["twins_error"]
        figures.append(f"{apart[0]:.3f}, {apart[1]:.2f}, {apart[2]:.1%}")
        met = met and apart[0] <= 0.1 and apart[1] <= 2 and apart[2] <= 0.08
    return Claim("G1", says, "; ".join(figures), met)


def setting(training: Training) -> tuple[float, float]:
    return training[LAST]["learning_rate"], training[LAST]["weight_decay"]


def other_kinds(rows: Sequence[Row]) -> list[Part]:
    """N1 to N3 and N6 to N8: SimCLR, VICReg and a ViT together."""
    groups = {name: own for name in KINDS if len(own := trainings_of(rows, name)) > 1}
    if not groups:
        return []
    every = [training for own in groups.values() for training in own]
    claims = [
        *n1(every),
        *(n2(name, own) for name, own in groups.items()),
        n3(list(groups.values())),
        n6(list(groups.values()), 0.8),
        *(n7(name, own) for name, own in groups.items()),
        *(claim for name, own in groups.items() if name in LATER for claim in n8(name, own)),
    ]
    return [Part(OTHERS, len(every), sum(PLANNED[name] for name in KINDS), claims)]


def fresh(trainings: Sequence[Training]) -> list[Training]:
    """Those of the grid on which the rules were not found."""
    return [t for t in trainings if (t[0]["lambd"], t[0]["projector_dim"]) not in FOUND_ON]


def tested(rows: Sequence[Row]) -> list[Part]:
    """What was found on some trainings, on those that were not there then."""
    parts = []
    for name in ("barlow_twins", "seeds", "tiny_imagenet", "rate_decay"):
        layers = ("backbone", "backbone.stages.2")
        own, before = (trainings_of(rows, name, layer) for layer in layers)
        planned, top = PLANNED[name], accuracy(own).max(initial=0.0) if own else 0.0
        if name == "barlow_twins":
            own, before, planned = fresh(own), fresh(before), planned - len(FOUND_ON)
            name = OF_GRID
        if len(own) > 1:
            claims = [m1(own), *m2(own), m3(own), m4(own), m5(own), m6(before)]
            claims += [m7(own), m8(own, top), m9(own)]
            if name in ("tiny_imagenet", "rate_decay"):
                claims += [n4(own), n5(own)]
            if name == "rate_decay":
                claims.append(n6([own], 0.9))
            if not learnt(own).any():
                claims = [without_points(claim) for claim in claims]
            parts.append(Part(name, len(own), planned, claims))
    return parts + other_kinds(rows)


def repeated(rows: Sequence[Row]) -> list[Part]:
    """G1, of what was trained on another machine as well, and what a GPU had no time for."""
    there = {setting(training): training for training in trainings_of(rows, "rate_decay")}
    again = trainings_of(rows, REPEATED)
    pairs = [(t, there[setting(t)]) for t in again if setting(t) in there]
    if not pairs:
        return []
    none = ("a ResNet-18, as N1 to N3 and N6 to N9", "a ResNet-18: the sign of ρ(nearness) turns")
    claims = [g1(pairs)]
    claims += [
        Claim(name, says, "–", None, "no training of it ended")
        for name, says in zip(("G2", "G3"), none, strict=True)
    ]
    return [Part(REPEATED, len(pairs), PLANNED[REPEATED], claims)]
