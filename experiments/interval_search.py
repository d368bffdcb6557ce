"""The paper's simulation of model selection: many random orders over models with α and accuracy.

Without ``--table`` over synthetic landscapes, accuracy = 90 − 25 (α − 1)² + noise with α uniform in
[0.4, 2.2]; with it over a file of records that have accuracies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphareq_lightning.records import read_records
from alphareq_lightning.selection import AlphaIntervalSearch
from benchmarks.results import EXPERIMENTS, options_of, write

Numbers = NDArray[np.float64]
RULES = {"paper": (0, 10), "careful": (1, 1)}
"""Margin of the interval, and models that come at a time."""
NOISE = (0.0, 1.0, 2.0, 4.0)
WITHIN = 1.0
"""A search succeeds if its best model is this near to the best of all, in points of accuracy."""
COUNTS = ((4, 100), (60, 10))
"""Landscapes, and orders of each: as published, and enough landscapes for a mean to be one."""
PUBLISHED = {80: (20, 23, 26, 29), 1000: (31, 74, 93, 120)}
"""Mean readouts of the reference code by number of models, for each noise."""


def one_order(
    alphas: Numbers, accuracies: Numbers, order: Sequence[int], margin: int, step: int
) -> tuple[Numbers, float]:
    """Which of the models in this order were read out, as 0 and 1, and the best accuracy found."""
    search = AlphaIntervalSearch(margin=margin)
    for start in range(0, len(order), step):
        names = order[start : start + step]
        asked = search.ask({str(i): float(alphas[i]) for i in names})
        search.tell({name: float(accuracies[int(name)]) for name in asked})
    paid = np.array([str(i) in search.readouts for i in order], dtype=np.float64)
    return paid, max(readout.score for readout in search.readouts.values())


def simulate(tables: Sequence[tuple[Numbers, Numbers]], orders: int, rule: str) -> dict[str, Any]:
    """Mean readouts, readouts in each tenth of the way, and the share of orders that succeed."""
    rng = np.random.default_rng(1)
    paid, successes = [], []
    for alphas, accuracies in tables:
        for _ in range(orders):
            order = rng.permutation(len(alphas)).tolist()
            found, best = one_order(alphas, accuracies, order, *RULES[rule])
            paid.append(found)
            successes.append(best >= accuracies.max() - WITHIN)
    # The paper's steps are of ten models; its reference for their readouts is 1/step.
    steps = np.mean(paid, axis=0)
    per_step = [float(part.mean()) for part in np.array_split(steps, max(len(steps) // 10, 1))]
    return {
        "rule": rule,
        "models": len(steps),
        "readouts": round(float(steps.sum()), 2),
        "success": round(float(np.mean(successes)), 4),
        "share_read_out_by_step": [round(share, 3) for share in per_step[:8]],
    }


def landscapes(models: int, noise: float, count: int) -> list[tuple[Numbers, Numbers]]:
    """Synthetic models; the same for every rule."""
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(count):
        alphas = rng.uniform(0.4, 2.2, models)
        tables.append((alphas, 90 - 25 * (alphas - 1) ** 2 + rng.normal(0, noise, models)))
    return tables


def main() -> None:
    parser = options_of(__doc__, EXPERIMENTS)
    parser.add_argument("--table", type=Path, help="records with accuracies, instead")
    parser.add_argument("--orders", type=int, default=1000, help="of the table")
    options = parser.parse_args()
    if options.table is not None:
        records = [r for r in read_records(options.table) if r.accuracy is not None]
        table = np.array([(r.alpha, r.accuracy) for r in records]).T
        rows = [simulate([(table[0], table[1])], options.orders, r) for r in RULES]
        write(options, "interval_search_table", rows)
        return
    rows = []
    for models, published in PUBLISHED.items():
        for noise, expected in zip(NOISE, published, strict=True):
            for rule, (count, orders) in product(RULES, COUNTS):
                if models > 80 and rule == "careful" and count > 4:
                    continue  # a thousand decisions an order: minutes, for one more figure
                orders = 1 if options.smoke else orders
                found = simulate(landscapes(models, noise, count), orders, rule)
                row = {"noise": noise, "landscapes": count, "orders": orders, **found}
                rows.append({**row, "published": expected if rule == "paper" else None})
        if options.smoke:
            break
    write(options, "interval_search", rows)


if __name__ == "__main__":
    main()
