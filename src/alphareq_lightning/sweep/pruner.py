"""The interval search as a pruner of Optuna: is this trial worth a labelled readout?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from optuna.pruners import BasePruner, NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from alphareq_lightning.selection import Readout, closing_interval

ALPHA = "alpha"
"""The user attribute that holds α of a trained model; `None` if there is no α."""


class AlphaIntervalPruner(BasePruner):
    """Prunes trained models whose α lies outside of where good ones were found.

    While a trial trains, an inner pruner decides. Once it has the user attribute ``"alpha"``,
    the `closing_interval` of all completed trials decides: their α and their values, higher is
    better, in the order in which they were completed. A trial without an α is always pruned.

    Args:
        top_k: How many of the best trials span the interval; with 0 none is worth a readout.
        margin: See `closing_interval`.
        inner: Decides during training; nobody does by default.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(pruner=AlphaIntervalPruner(top_k=1), direction="maximize")
        >>> def objective(trial):
        ...     alpha = trial.suggest_float("alpha", 0, 3)  # a model is trained and measured
        ...     trial.set_user_attr("alpha", alpha)
        ...     if trial.should_prune():
        ...         raise optuna.TrialPruned
        ...     return 90 - 25 * (alpha - 1) ** 2  # the labelled readout
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> for alpha in (0.5, 1.0, 2.0, 2.5):
        ...     study.enqueue_trial({"alpha": alpha})
        >>> study.optimize(objective, n_trials=4)
        >>> [trial.state.name for trial in study.trials]
        ['COMPLETE', 'COMPLETE', 'COMPLETE', 'PRUNED']
    """

    def __init__(self, *, top_k: int = 5, margin: int = 0, inner: BasePruner | None = None) -> None:
        self.top_k = top_k
        self.margin = margin
        self.inner = inner or NopPruner()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to end the trial here."""
        if ALPHA not in trial.user_attrs:
            return self.inner.prune(study, trial)
        alpha = trial.user_attrs[ALPHA]
        low, high = self.interval(study)
        return alpha is None or not low <= alpha <= high  # NaN is in no interval

    def interval(self, study: Study) -> tuple[float, float]:
        """Lowest and highest α that are worth a readout now."""
        if self.top_k == 0:
            return math.inf, -math.inf
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return closing_interval(readouts(completed), top_k=self.top_k, margin=self.margin)


def readouts(trials: Iterable[FrozenTrial]) -> list[Readout]:
    """α and value of those trials that were read out, in the order of their completion."""
    completed = [t for t in trials if t.state == TrialState.COMPLETE and ALPHA in t.user_attrs]
    return [Readout(t.user_attrs[ALPHA], float(t.values[0])) for t in sorted(completed, key=ended)]


def ended(trial: FrozenTrial) -> tuple[float, int]:
    """When a trial ended, and its number among those of one moment: a key to sort by."""
    moment = trial.datetime_complete
    return (moment.timestamp() if moment else math.inf, trial.number)
