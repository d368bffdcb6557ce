"""Order checkpoints by α, without labels."""

from __future__ import annotations

import math
from collections.abc import Iterable

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.selection.records import AlphaRecord


def target_distance(alpha: float, target: float | tuple[float, float] = 1.0) -> float:
    """Distance of α from a target or an interval; infinite where there is no α.

    Example:
        >>> round(target_distance(1.5, (0.8, 1.2)), 6), target_distance(float("nan"))
        (0.3, inf)
    """
    low, high = (target, target) if isinstance(target, int | float) else target
    return math.inf if math.isnan(alpha) else max(low - alpha, alpha - high, 0.0)


def rank_checkpoints(
    records: Iterable[AlphaRecord],
    *,
    target: float | tuple[float, float] = 1.0,
    min_r2: float = 0.0,
) -> list[AlphaRecord]:
    """Sort records by distance of α from the target, best first.

    Records without a fit, or with R² below ``min_r2``, come last; ties keep the earlier epoch
    first.

    Args:
        records: Records of one layer.
        target: The α to be near, or an interval ``(low, high)``.
        min_r2: Least R² of a line that is believed; the paper's code used 0.95.

    Raises:
        SelectionError: If the records are of different layers: their α do not compare.

    Example:
        >>> def record(alpha):
        ...     return AlphaRecord(alpha=alpha, r2=1.0, stderr=0.0, fit_range=(4, 50),
        ...                        num_samples=1000, num_features=256)
        >>> [r.alpha for r in rank_checkpoints([record(0.5), record(1.1), record(2.0)])]
        [1.1, 0.5, 2.0]
    """
    records = list(records)
    layers = sorted({record.layer for record in records})
    if len(layers) > 1:
        raise SelectionError(f"records of different layers cannot be ranked together: {layers}")

    def key(record: AlphaRecord) -> tuple[bool, float, int]:
        distance = target_distance(record.alpha, target)
        believed = not math.isnan(record.alpha) and record.r2 >= min_r2
        return (not believed, distance, record.global_step)

    return sorted(records, key=key)
