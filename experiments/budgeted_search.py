"""How many readouts each way of choosing pays, and how often it finds a good model.

80 models with α uniform in [0.4, 2.2], on five landscapes of accuracy: the paper's peak at α = 1, a
peak elsewhere, two peaks, the paper's turned upside down, and one where α says nothing. Noise is
that of a model about its landscape, in points. A search succeeds if its best model is within one
point of the best of all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from alphareq_lightning.selection.budgeted_search import BudgetedSearch
from benchmarks.results import EXPERIMENTS, options_of, write
from experiments.interval_search import NOISE, RULES, WITHIN, Numbers, one_order

MODELS, BUDGET = 80, 12
LANDSCAPES: dict[str, Callable[[Numbers], Numbers]] = {
    "peak at 1": lambda a: 90 - 25 * (a - 1) ** 2,
    "peak at 1.6": lambda a: 90 - 25 * (a - 1.6) ** 2,
    "two peaks": lambda a: (
        70 + 20 * np.exp(-20 * (a - 0.8) ** 2) + 18 * np.exp(-20 * (a - 1.8) ** 2)
    ),
    "upside down": lambda a: 54 + 25 * (a - 1) ** 2,
    "nothing": lambda a: 70 + 0 * a,
}


def budgeted(alphas: Numbers, accuracies: Numbers, seed: int, budget: int) -> tuple[int, float]:
    """Readouts, and the best accuracy found."""
    values = {str(i): float(a) for i, a in enumerate(alphas)}
    nearness = {name: abs(a - 1) for name, a in values.items()}
    search = BudgetedSearch({"nearness": nearness, "alpha": values}, budget=budget, seed=seed)
    while (name := search.ask()) is not None:
        search.tell(name, float(accuracies[int(name)]))
    return search.num_readouts, max(search.scores.values())


def at_random(accuracies: Numbers, count: int, draws: int, rng: np.random.Generator) -> float:
    """Chance that the best of so many models, drawn at random, is good enough."""
    good = accuracies.max() - WITHIN
    return float(np.mean([rng.permutation(accuracies)[:count].max() >= good for _ in range(draws)]))


def main() -> None:
    parser = options_of(__doc__, EXPERIMENTS)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--landscapes", type=int, default=60, help="drawn of each kind")
    options = parser.parse_args()
    count = 2 if options.smoke else options.landscapes
    rows: list[dict[str, Any]] = []
    for (name, landscape), noise in product(LANDSCAPES.items(), NOISE):
        rng = np.random.default_rng(0)
        found: dict[str, list[tuple[float, bool]]] = {rule: [] for rule in (*RULES, "budgeted")}
        chance = []
        for seed in range(count):
            alphas = rng.uniform(0.4, 2.2, MODELS)
            accuracies = landscape(alphas) + rng.normal(0, noise, MODELS)
            good = accuracies.max() - WITHIN
            order = rng.permutation(MODELS).tolist()
            for rule, (margin, step) in RULES.items():
                paid, best = one_order(alphas, accuracies, order, margin, step)
                found[rule].append((paid.sum(), best >= good))
            paid_few, best = budgeted(alphas, accuracies, seed, options.budget)
            found["budgeted"].append((paid_few, best >= good))
            chance.append(at_random(accuracies, options.budget, 20, rng))
        row: dict[str, Any] = {"landscape": name, "noise": noise, "models": MODELS}
        for rule, outcomes in found.items():
            readouts, success = np.mean(np.array(outcomes, dtype=np.float64), axis=0)
            row[rule] = {"readouts": round(float(readouts), 1), "success": round(float(success), 3)}
        row["random"] = {"readouts": options.budget, "success": round(float(np.mean(chance)), 3)}
        rows.append(row)
    write(options, "budgeted_search", rows, budget=options.budget, landscapes=count)


if __name__ == "__main__":
    main()
