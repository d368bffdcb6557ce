"""How many readouts each way of choosing pays, and how often it finds a good model.

80 models with α uniform in [0.4, 2.2], on five landscapes of accuracy: the paper's peak at α = 1, a
peak elsewhere, two peaks, the paper's turned upside down, and one where α says nothing. Noise is
that of a model about its landscape, in points. The last rows are the 24 Barlow Twins of the long
study, early and late, with all criteria that their records have. A search succeeds if its best
model is within one point of the best of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from alphareq_lightning.selection.budgeted_search import BudgetedSearch
from alphareq_lightning.selection.paid_readouts import criteria_of
from benchmarks.results import EXPERIMENTS, options_of, write
from experiments.interval_search import NOISE, RULES, WITHIN, Numbers, one_order
from study.records import records_of

MODELS, BUDGET = 80, 12
STUDY = Path(__file__).parents[1] / "study/results/barlow_twins"
STEPS = (200, 4000)
"""Of the trainings of the study."""
LANDSCAPES: dict[str, Callable[[Numbers], Numbers]] = {
    "peak at 1": lambda a: 90 - 25 * (a - 1) ** 2,
    "peak at 1.6": lambda a: 90 - 25 * (a - 1.6) ** 2,
    "two peaks": lambda a: (
        70 + 20 * np.exp(-20 * (a - 0.8) ** 2) + 18 * np.exp(-20 * (a - 1.8) ** 2)
    ),
    "upside down": lambda a: 54 + 25 * (a - 1) ** 2,
    "nothing": lambda a: 70 + 0 * a,
}


def budgeted(
    criteria: dict[str, dict[str, float]], accuracies: Numbers, seed: int, budget: int
) -> tuple[int, float]:
    """Readouts, and the best accuracy found."""
    search = BudgetedSearch(criteria, budget=budget, seed=seed)
    while (name := search.ask()) is not None:
        search.tell(name, float(accuracies[int(name)]))
    return search.num_readouts, max(search.scores.values())


def of_alpha(alphas: Numbers) -> dict[str, dict[str, float]]:
    """The two criteria that α alone gives."""
    values = {str(i): float(a) for i, a in enumerate(alphas)}
    return {"distance of α": {name: abs(a - 1) for name, a in values.items()}, "α": values}


def of_study(step: int) -> tuple[dict[str, dict[str, float]], Numbers, Numbers]:
    """Criteria, α and accuracies of the trainings of the long study at one step."""
    paths = sorted(STUDY.glob("*.json"))
    ends = [r for path in paths for r in records_of(path) if r.global_step == step]
    alphas = np.array([record.alpha for record in ends])
    named = [replace(record, path=str(i)) for i, record in enumerate(ends)]
    return criteria_of(named), alphas, np.array([r.accuracy for r in ends])


def at_random(accuracies: Numbers, count: int, draws: int, rng: np.random.Generator) -> float:
    """Chance that the best of so many models, drawn at random, is good enough."""
    good = accuracies.max() - WITHIN
    return float(np.mean([rng.permutation(accuracies)[:count].max() >= good for _ in range(draws)]))


def compared(
    about: dict[str, Any],
    draws: Iterable[tuple[dict[str, dict[str, float]], Numbers, Numbers]],
    budget: int,
) -> dict[str, Any]:
    """A row: mean readouts and share of successes of each way of choosing."""
    rng = np.random.default_rng(1)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed, (criteria, alphas, accuracies) in enumerate(draws):
        good = accuracies.max() - WITHIN
        order = rng.permutation(len(alphas)).tolist()
        outcomes = {
            rule: one_order(alphas, accuracies, order, margin, step)
            for rule, (margin, step) in RULES.items()
        }
        paid = {rule: (float(chosen.sum()), best) for rule, (chosen, best) in outcomes.items()}
        paid["budgeted"] = budgeted(criteria, accuracies, seed, budget)
        for rule, (readouts, best) in paid.items():
            found.setdefault(rule, []).append((readouts, best >= good))
        chance = at_random(accuracies, budget, 20, rng)
        found.setdefault("random", []).append((budget, chance))
    means = {rule: np.mean(np.array(pairs), axis=0) for rule, pairs in found.items()}
    return about | {
        rule: {"readouts": round(float(mean[0]), 1), "success": round(float(mean[1]), 3)}
        for rule, mean in means.items()
    }


def main() -> None:
    parser = options_of(__doc__, EXPERIMENTS)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--landscapes", type=int, default=60, help="drawn of each kind")
    options = parser.parse_args()
    count = 2 if options.smoke else options.landscapes
    rows: list[dict[str, Any]] = []
    for (name, landscape), noise in product(LANDSCAPES.items(), NOISE):
        rng = np.random.default_rng(0)
        draws = []
        for _ in range(count):
            alphas = rng.uniform(0.4, 2.2, MODELS)
            accuracies = landscape(alphas) + rng.normal(0, noise, MODELS)
            draws.append((of_alpha(alphas), alphas, accuracies))
        about = {"landscape": name, "noise": noise, "models": MODELS}
        rows.append(compared(about, draws, options.budget))
    for step in STEPS:
        study = of_study(step)
        name = f"{len(study[1])} Barlow Twins at {step:,} steps"
        about = {"landscape": name, "noise": None, "models": len(study[1])}
        rows.append(compared(about, [study] * count, options.budget))
    write(options, "budgeted_search", rows, budget=options.budget, landscapes=count)


if __name__ == "__main__":
    main()
