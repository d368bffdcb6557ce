"""The case study's numbers, on trainings with a known answer; and its page, on the stored ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks_at_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def stored(folder, alphas, accuracies):
    """Trainings with power-law spectra of these exponents."""
    for number, (alpha, accuracy) in enumerate(zip(alphas, accuracies, strict=True)):
        layer = {
            "alpha": alpha,
            "scores": {"rankme": 10.0 + number, "selfcluster": float(number)},
            "eigenvalues": [rank**-alpha for rank in range(1, 257)],
        }
        epoch = {"epoch": 1, "losses": {"val_loss": math.e}, "layers": {"backbone": layer}}
        epoch["readouts"] = {"cifar10": accuracy}
        values = {"sweep": "known", "params": {"model.projector_dim": number + 1}}
        values |= {"seconds": {}, "date": "", "machine": {}, "epochs": [epoch]}
        (folder / "known").mkdir(exist_ok=True)
        (folder / "known" / f"{number}.json").write_text(json.dumps(values))


def test_scores_point_the_right_way(tmp_path):
    from study import correlation
    from study.pilot import analysis

    stored(tmp_path, [1.1, 0.5, 3.0], [90.0, 80.0, 50.0])
    trainings = analysis.load("known", tmp_path)
    accuracy = analysis.accuracies(trainings, 1)
    nearness = analysis.values_of(analysis.DISTANCE, trainings, 1)
    np.testing.assert_allclose(nearness, [-0.1, -0.5, -2.0])
    assert correlation.spearman(nearness, accuracy) == 1
    rankme, selfcluster = (
        analysis.values_of(analysis.companion(name), trainings, 1)
        for name in ("rankme", "selfcluster")
    )
    assert rankme.tolist() == [10, 11, 12]
    assert selfcluster.tolist() == [0, -1, -2]  # less clustered is better
    per_width = analysis.values_of(analysis.LOG_LOSS, trainings, 1)
    np.testing.assert_allclose(per_width, [-1, -1 / 2, -1 / 3])
    assert correlation.regret(nearness, accuracy) == 0
    assert correlation.regret(rankme, accuracy) == 40
    lidar = analysis.values_of(analysis.LIDAR, trainings, 1)
    assert lidar.tolist() == [-math.inf] * 3  # never measured: worst


def test_windows_are_refitted_from_the_spectra(tmp_path):
    from study.pilot import analysis

    stored(tmp_path, [1.1, 0.5, 3.0, 1.2], [90.0, 80.0, 50.0, 89.0])
    trainings = analysis.load("known", tmp_path)
    found = analysis.window_correlations(trainings, 1, [(4, 32), (4, 300)], "cifar10")
    assert found[0] == 1
    assert math.isnan(found[1])  # reaches past the spectrum: no α, nothing to correlate


def test_searches_on_a_table():
    from study.pilot import analysis

    alphas = np.linspace(0.4, 2.2, 40)
    accuracy = 90 - 25 * (alphas - 1) ** 2
    curve = analysis.search_curve(alphas, accuracy, margin=1, step=1)
    assert curve.success > 0.9
    assert curve.readouts < 30
    assert (np.diff(curve.found_by) >= 0).all()
    assert curve.found_by[-1] == curve.success
    chance = analysis.by_chance(np.array([90.0, 89.5, 80.0, 70.0]))
    np.testing.assert_allclose(chance, [1 / 2, 1 - 1 / 6, 1, 1])


def test_page_says_what_the_results_say():
    from benchmarks.tables import rendered
    from study.pilot.report import PAGE, TABLES

    text = PAGE.read_text(encoding="utf-8")
    assert rendered(text, TABLES) == text, "run make study-report"
