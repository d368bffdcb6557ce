"""The pruner decides as the search of the selection room does."""

import math
import random

import pytest

from alphareq_lightning.selection import AlphaIntervalSearch

optuna = pytest.importorskip("optuna")

from alphareq_lightning.sweep import AlphaIntervalPruner  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def sweep_over(alphas, accuracy, **options):
    study = optuna.create_study(pruner=AlphaIntervalPruner(**options), direction="maximize")
    queue = list(alphas)

    def objective(trial):
        alpha = queue[trial.number]
        trial.set_user_attr("alpha", alpha)
        if trial.should_prune():
            raise optuna.TrialPruned
        return accuracy(alpha)

    study.optimize(objective, n_trials=len(queue))
    return study


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_k": 3, "margin": 1}])
def test_same_choices_as_the_interval_search(options):
    draw = random.Random(3)
    alphas = [draw.uniform(0.4, 2.2) for _ in range(40)]
    noise = [draw.gauss(0, 2) for _ in alphas]

    def accuracy(alpha):
        return 90 - 25 * (alpha - 1) ** 2 + noise[alphas.index(alpha)]

    study = sweep_over(alphas, accuracy, **options)
    search = AlphaIntervalSearch(**options)
    for alpha in alphas:
        for name in search.ask({str(alpha): alpha}):
            search.tell({name: accuracy(alpha)})
    read_out = [t.user_attrs["alpha"] for t in study.trials if t.state.name == "COMPLETE"]
    assert read_out == [r.alpha for r in search.readouts.values()]
    assert len(read_out) < 30
    assert study.pruner.interval(study) == search.interval
    assert study.best_trial.user_attrs["alpha"] == search.readouts[search.best].alpha


def test_of_equal_accuracies_the_one_completed_first_counts():
    study = sweep_over([1.0, 0.5], lambda alpha: 80.0, top_k=1)
    assert study.pruner.interval(study) == (1.0, math.inf)


def test_no_alpha_is_never_read_out():
    study = sweep_over([None, math.nan, 1.0], lambda alpha: 90.0)
    assert [t.state.name for t in study.trials] == ["PRUNED", "PRUNED", "COMPLETE"]


def test_the_inner_pruner_decides_until_there_is_an_alpha():
    class Always(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return True

    study = optuna.create_study(pruner=AlphaIntervalPruner(inner=Always()))
    trial = study.ask()
    assert trial.should_prune()
    trial.set_user_attr("alpha", 1.0)
    assert not trial.should_prune()
