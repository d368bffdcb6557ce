"""A study whose hypotheses are all met, as rows of its table, and ways to change it."""

import math

from study.hypotheses import trainings_of
from study.table import phase

STEPS = (0, 50, 100, 200, 400, 1000, 2000, 3000, 4000)
DONE = dict(zip(STEPS, (0, 0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1), strict=True))
"""Share of the way from the untrained network to the end."""
READ = tuple(step for step in STEPS if step != 50)
COUNT, FAILING = 24, 6
LEARNT, LOST = range(FAILING, COUNT), range(FAILING)
WIDTHS = (64, 256, 1024)


def alpha_of(quality, fails, step):
    """Worse ones begin nearer to 1 and end farther from it; those that fail begin below."""
    if step < 100:
        return 1.6
    if fails:
        return 1.2 + 0.2 * quality + 1.2 * (DONE[step] - 0.1) - 0.3 * quality * DONE[step]
    falling = {1000: 2.05 - 0.1 * quality, 2000: 1.95 - 0.2 * quality, 3000: 1.93 - 0.3 * quality}
    rising = {100: 1.75, 200: 1.9, 400: 2.1, 4000: 1.9}
    return falling.get(step) or rising[step] + (0.2 if step <= 400 else -0.4) * quality


def planted(experiment="barlow_twins", seed=0, shift=0.0, settings=range(COUNT)):
    """Rows of trainings whose quality rises with their number; all hypotheses are met."""
    rows = []
    for number in settings:
        quality, fails = number / (COUNT - 1), number < FAILING
        for layer in ("backbone", "backbone.stages.2"):
            course = []
            for step in STEPS:
                way = DONE[step]
                gain = -(1 + 8 * (1 - quality)) if fails else 5 + 15 * quality
                top1 = 35 + gain * way + shift * way if step in READ else math.nan
                # Ranks 4–51 take two models for each other where 2–50 do not.
                swapped = {23: 20, 20: 23}.get(number, number) if step >= 2000 else number
                course.append(
                    {
                        "experiment": experiment,
                        "training": f"{number},seed={seed}",
                        "layer": layer,
                        "images": "cifar10",
                        "lambd": float(number // 3),
                        "projector_dim": float(WIDTHS[number % 3]),
                        "step": float(step),
                        "num_features": 256.0,
                        "alpha": alpha_of(swapped / (COUNT - 1), fails, step) + shift / 20,
                        "alpha_2_50": alpha_of(quality, fails, step),
                        "r2": 0.99,
                        "stderr": 0.01,
                        "rankme": 20 + (-5 if step <= 100 else 5) * quality,
                        "twins_error": (1 - 0.9 * quality) * (1 + shift / 20),
                        "selfcluster": 0.8 - 0.5 * quality,
                        "loss": float(7 * number % COUNT),
                        "top1": top1,
                        "other_top1": top1 / 3 if step == 4000 else math.nan,
                    }
                )
                course[-1]["phase"] = phase(course)
            rows += course
    return rows


def seeds():
    return [
        row
        for seed, shift in ((1, 0.5), (2, -0.5))
        for row in planted("seeds", seed, shift, (8, 9, 14, 15, 20, 21))
    ]


def grid_of(rows):
    return trainings_of(rows, "barlow_twins")


def put(rows, name, value, steps=STEPS, numbers=range(COUNT), layer="backbone"):
    """Write one column anew; a course of α has phases."""
    course = []
    for row in rows:
        number = int(row["training"].partition(",")[0])
        if row["layer"] == layer and number in numbers:
            course = [*(course if row["step"] else ()), row]
            if row["step"] in steps:
                row[name] = value(row, number)
            if name == "alpha":
                row["phase"] = phase(course)


def turned_around(rows, name, steps=STEPS, numbers=range(COUNT), layer="backbone"):
    """Give each model the value of the one at the other end."""
    numbers = list(numbers)
    other = dict(zip(numbers, reversed(numbers), strict=True))
    known = {
        (row["training"].partition(",")[0], row["step"]): row[name]
        for row in rows
        if row["layer"] == layer
    }
    put(rows, name, lambda row, n: known[str(other[n]), row["step"]], steps, numbers, layer)
