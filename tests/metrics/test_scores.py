"""Every score by name, in a real Trainer."""

import math
import re
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from alphareq_lightning import AlphaMonitor
from alphareq_lightning.commands.main import main
from alphareq_lightning.functional import feature_moments, spectrum
from alphareq_lightning.measure.pooling import pool_features
from alphareq_lightning.metrics import score_metric
from alphareq_lightning.metrics.companions import companions
from alphareq_lightning.metrics.scores import (
    SCORES,
    Score,
    Seen,
    read_scores,
    scores_table,
    without_views,
)
from alphareq_lightning.selection import rank_checkpoints

import oracles
from tiny import TinyModule, images, labelled_loader, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
ORACLES = {
    "rankme": oracles.rankme,
    "effective_rank": oracles.effective_rank,
    "participation_ratio": oracles.participation_ratio,
    "nesum": oracles.nesum,
    "stable_rank": oracles.stable_rank,
    "matrix_entropy": oracles.matrix_entropy,
    "selfcluster": oracles.selfcluster,
    "uniformity": oracles.uniformity,
    "coherence": oracles.coherence,
    "intrinsic_dimension": oracles.twonn_dimension,
}


def test_every_score_is_that_of_the_validation_features(tmp_path):
    torch.manual_seed(0)
    module = TinyModule()
    monitor = AlphaMonitor(scores=without_views())
    trainer = make_trainer(tmp_path, monitor, max_epochs=1)
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    module.eval()
    with torch.no_grad():
        x = module.backbone(images(seed=5)).double().numpy()
    scores = monitor.history[-1].scores
    assert list(scores) == without_views()
    for name, oracle in ORACLES.items():
        # The network ran in float32.
        assert scores[name] == pytest.approx(oracle(x), rel=1e-3), name
        logged = trainer.callback_metrics[f"val_{name}"].item()
        assert logged == pytest.approx(scores[name], rel=1e-6), name
    assert scores["participation_ratio_corrected"] > scores["participation_ratio"]
    assert scores["condition_number"] == pytest.approx(oracles.condition_number(x), rel=0.05)


class Collapsed(TinyModule):
    def __init__(self, value):
        super().__init__()
        self.value = value
        self.backbone[-1].register_forward_hook(lambda m, a, out: torch.full_like(out, value))


@pytest.mark.parametrize("value", [0.0, 3.0, math.nan])
def test_collapse_keeps_every_key(tmp_path, value):
    monitor = AlphaMonitor(scores=without_views())
    trainer = make_trainer(tmp_path, monitor, max_epochs=1)
    module = Collapsed(value)
    module.automatic_optimization = False
    module.training_step = lambda batch, batch_idx: None
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    scores = {name: trainer.callback_metrics[f"val_{name}"].item() for name in without_views()}
    limits = {
        3.0: {"rankme": 1, "stable_rank": 1, "matrix_entropy": 0, "condition_number": math.inf}
        | {"selfcluster": 1, "uniformity": 0, "coherence": 1},
    }
    for name, score in scores.items():
        expected = limits.get(value, {}).get(name, math.nan)
        assert score == pytest.approx(expected, abs=1e-3, nan_ok=True), name


def test_one_solve_of_each_spectrum_serves_all_scores(monkeypatch):
    solved = []
    original = spectrum.solve_symmetric

    def counting(solver, matrix):
        solved.append(len(matrix))
        return original(solver, matrix)

    monkeypatch.setattr(spectrum, "solve_symmetric", counting)
    moments = feature_moments(torch.randn(200, 20))
    of_covariance = ["effective_rank", "participation_ratio", "nesum"]
    read_scores(of_covariance, Seen(moments))
    assert len(solved) == 1
    read_scores([*of_covariance, "rankme", "stable_rank", "matrix_entropy"], Seen(moments))
    assert len(solved) == 3


def test_companions_only_if_asked_for():
    assert companions(["rankme", "nesum"]) == {}
    assert len(companions(["uniformity", "coherence", "intrinsic_dimension"])) == 1
    assert len(companions(["uniformity", "selfcluster"])) == 2


@pytest.mark.parametrize("name", ["lidar", "alignment", "twins_error", "cvpca"])
def test_commands_do_not_offer_scores_of_views(name, tmp_path, capsys):
    for command in ("profile", "score"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert name not in capsys.readouterr().out
    arguments = [
        "profile",
        "--max-images",
        "20",
        "--scores",
        "rankme",
        name,
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 2
    assert f"{name!r} needs two views of each image or more" in capsys.readouterr().err
    assert type(score_metric(name)).name == name


def test_projected_maps(tmp_path):
    assert pool_features(torch.randn(3, 200, 4, 4), "project").shape == (3, 2048)

    class Convolutional(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = torch.nn.Conv2d(1, 8, 3)

        def validation_step(self, batch, batch_idx):
            self.backbone(batch[0])

    monitor = AlphaMonitor("backbone", pool="project", scores=[])
    make_trainer(tmp_path, monitor).validate(Convolutional(), labelled_loader(), verbose=False)
    assert monitor.history[-1].num_features == 8 * 4 * 4


@pytest.mark.parametrize(
    ("reads", "function", "expected"),
    [
        ("eigenvalues", lambda values: values[0], lambda x: np.linalg.eigvalsh(np.cov(x.T))[-1]),
        ("singular_values", lambda values: values[0], lambda x: np.linalg.norm(x, 2)),
        ("directions", lambda moments: moments.scatter.trace(), None),
        ("sample", lambda features: features.abs().max(), lambda x: abs(x).max()),
    ],
)
def test_a_new_score_is_one_entry(tmp_path, monkeypatch, capsys, reads, function, expected):
    entry = Score(reads, function, "lower", "a first value", "nowhere yet", "This test, 2026.")
    monkeypatch.setitem(SCORES, "tenth", entry)

    monitor = AlphaMonitor(scores=["tenth"])
    trainer = make_trainer(tmp_path, monitor, max_epochs=1)
    module = TinyModule()
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    [record] = monitor.history
    assert trainer.callback_metrics["val_tenth"].item() == pytest.approx(record.scores["tenth"])

    module.eval()
    with torch.no_grad():
        features = module.backbone(images(seed=5))
    metric = score_metric("tenth")
    assert metric.higher_is_better is False
    metric.update(features)
    assert metric.compute().item() == pytest.approx(record.scores["tenth"], rel=1e-5)
    if expected is not None:  # the network ran in float32
        assert metric.compute().item() == pytest.approx(expected(features.numpy()), rel=1e-4)

    high = replace(record, scores={"tenth": 9.0})
    low = replace(record, scores={"tenth": 1.0})
    assert rank_checkpoints([high, low], by="tenth") == [low, high]

    for command in ("profile", "score"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "tenth" in capsys.readouterr().out

    assert "| `tenth` | a first value | lower |" in scores_table()


def test_the_docs_show_the_table():
    page = (Path(__file__).parents[2] / "docs" / "scores.md").read_text()
    [shown] = re.findall(r"<!-- scores: .* -->\n(.*)\n<!-- end -->", page, flags=re.DOTALL)
    assert shown == scores_table()
