"""Optuna's own pruning callback watches α."""

import pytest
import torch

from alphareq_lightning import AlphaMonitor

from tiny import TinyModule, labelled_loader, make_trainer

optuna = pytest.importorskip("optuna")
integration = pytest.importorskip("optuna_integration")
pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


def test_pruning_by_alpha_distance(tmp_path):
    class SecondIsWorse(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1 and trial.last_step == 1

    def objective(trial):
        torch.manual_seed(0)
        prune = integration.PyTorchLightningPruningCallback(trial, "val_alpha_distance")
        trainer = make_trainer(tmp_path, AlphaMonitor(), prune, max_epochs=3)
        trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
        return trainer.callback_metrics["val_alpha_distance"].item()

    study = optuna.create_study(pruner=SecondIsWorse())
    study.optimize(objective, n_trials=2)
    first, second = study.trials
    assert first.state == optuna.trial.TrialState.COMPLETE
    assert sorted(first.intermediate_values) == [0, 1, 2]
    assert second.state == optuna.trial.TrialState.PRUNED
    assert sorted(second.intermediate_values) == [0, 1]
