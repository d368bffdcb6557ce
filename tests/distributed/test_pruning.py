"""Optuna's own pruning callback watches α on several ranks and none hangs."""

import pytest
import torch

from alphareq_lightning import AlphaMonitor

from ranks import Data, Frozen, TellsHistory, ddp_trainer, reports

optuna = pytest.importorskip("optuna")
integration = pytest.importorskip("optuna_integration")


class EvenTrialsAreGood(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return trial.number % 2 == 1 and trial.last_step == 1


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_prunes_by_alpha_on_every_rank(tmp_path):
    def objective(trial):
        torch.manual_seed(3)
        monitor = AlphaMonitor()
        prune = integration.PyTorchLightningPruningCallback(trial, "val_alpha_distance")
        tells = TellsHistory(tmp_path, monitor)
        trainer = ddp_trainer(tmp_path, 2, monitor, prune, tells, max_epochs=4)
        trainer.fit(Frozen(), datamodule=Data())
        prune.check_pruned()
        return trainer.callback_metrics["val_alpha_distance"].item()

    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", pruner=EvenTrialsAreGood()
    )
    study.optimize(objective, n_trials=2)
    good, bad = study.trials
    assert good.state == optuna.trial.TrialState.COMPLETE
    assert bad.state == optuna.trial.TrialState.PRUNED
    assert sorted(good.intermediate_values) == [0, 1, 2, 3]
    assert [len(report["alphas"]) for report in reports(tmp_path, 2)] == [2, 2]
