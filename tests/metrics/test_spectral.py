import pytest
import torch
from reptrix.alpha import get_alpha
from torchmetrics import MetricCollection

from alphareq_lightning.errors import FitRangeError, NoFitWarning, OptionError
from alphareq_lightning.functional import (
    correct_alpha,
    eigenspectrum,
    feature_moments,
    fit_power_law,
)
from alphareq_lightning.metrics import (
    AlphaReQ,
    ConditionNumber,
    EffectiveRank,
    MatrixEntropy,
    NESum,
    ParticipationRatio,
    RankMe,
    SelfCluster,
    StableRank,
)

import oracles

X = torch.tensor(oracles.planted_features(0.9, 700, 128, mean=2.0)).float()
SCORES = {
    AlphaReQ: lambda x: fit_power_law(eigenspectrum(x)).alpha.item(),
    RankMe: oracles.rankme,
    EffectiveRank: oracles.effective_rank,
    ParticipationRatio: oracles.participation_ratio,
    NESum: oracles.nesum,
    StableRank: oracles.stable_rank,
    ConditionNumber: oracles.condition_number,
    MatrixEntropy: lambda x: oracles.matrix_entropy(x.double().numpy()),
}


@pytest.mark.parametrize("metric_class", SCORES)
@pytest.mark.parametrize("size", [13, 700])
def test_streamed_score_is_that_of_all_features(metric_class, size):
    metric = metric_class()
    for batch in X.split(size):
        metric.update(batch)
    assert metric.compute().item() == pytest.approx(SCORES[metric_class](X), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(600, 128), (150, 256)])
def test_streamed_alpha_equals_reptrix(n, d):
    x = torch.tensor(oracles.planted_features(1.1, n, d)).float()
    metric = AlphaReQ(fit_range=(11, 100))
    for batch in x.split(64):
        metric.update(batch)
    assert metric.compute().item() == pytest.approx(get_alpha(x)[0], abs=1e-6)
    fit = metric.fit()
    assert fit.fit_range == (11, 100)
    assert fit.alpha == metric.compute()


def test_collection_shares_one_state():
    collection = MetricCollection([m() for m in SCORES])
    for batch in X.split(100):
        collection.update(batch)
    values = collection.compute()
    for metric_class, truth in SCORES.items():
        assert values[metric_class.__name__].item() == pytest.approx(truth(X), rel=1e-6)
    [group] = collection.compute_groups.values()
    assert sorted(group) == sorted(m.__name__ for m in SCORES)
    collection.reset()
    assert collection(X)["AlphaReQ"].item() == pytest.approx(SCORES[AlphaReQ](X), rel=1e-6)


def test_selfcluster_keeps_directions_apart_from_the_others():
    collection = MetricCollection([AlphaReQ(), SelfCluster()])
    for batch in X.split(100):
        collection.update(batch)
    values = collection.compute()
    truth = oracles.selfcluster(X.double().numpy())
    assert values["SelfCluster"].item() == pytest.approx(truth, rel=1e-6)
    assert values["AlphaReQ"].item() == pytest.approx(SCORES[AlphaReQ](X), rel=1e-6)


def test_options_reach_the_functions():
    ratio, entropy = ParticipationRatio(corrected=True), MatrixEntropy(order=2)
    for metric in (ratio, entropy):
        metric.update(X)
    assert ratio.compute() > 1.01 * oracles.participation_ratio(X)
    assert entropy.compute() < SCORES[MatrixEntropy](X)


def test_forward_gives_the_batch_and_keeps_the_sum():
    metric = AlphaReQ()
    first = metric(X[:300]).item()
    assert first == pytest.approx(SCORES[AlphaReQ](X[:300]), rel=1e-6)
    metric(X[300:])
    assert metric.compute().item() == pytest.approx(SCORES[AlphaReQ](X), rel=1e-6)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (torch.randn(2, 64), "AlphaReQ is NaN: .*at least 3 samples, got 2"),
        (torch.ones(100, 64), "span at most 3 dimensions"),
        (torch.full((100, 64), float("nan")), "64 of 64 features hold NaN"),
        (torch.randn(100, 8), "needs at least 30 attainable ranks"),
    ],
)
def test_no_fit_is_nan_and_a_warning(features, text):
    metric = AlphaReQ()
    metric.update(features)
    with pytest.warns(NoFitWarning, match=text):
        assert metric.compute().isnan()


def test_options_fail_at_once():
    with pytest.raises(FitRangeError, match=r"\(9, 3\)"):
        AlphaReQ(fit_range=(9, 3))


def test_corrected_alpha_is_that_of_all_features():
    x = torch.tensor(oracles.planted_features(0.8, 200, 300))
    metric = AlphaReQ((5, 50), bias_correction="inversion")
    for batch in x.split(37):
        metric.update(batch)
    expected = correct_alpha(eigenspectrum(x), (5, 50), num_samples=200, num_features=300)
    assert metric.compute().item() == pytest.approx(expected.alpha.item(), abs=1e-6)
    assert metric.corrected().stderr.item() == pytest.approx(expected.stderr.item(), abs=1e-6)
    assert metric.fit().alpha.item() == pytest.approx(expected.raw.alpha.item(), abs=1e-8)


def test_score_reads_the_moments_that_it_is_given():
    x, other = (torch.tensor(oracles.planted_features(a, 200, 300)) for a in (0.8, 1.4))
    metric = AlphaReQ((5, 50), bias_correction="inversion")
    metric.update(other)
    expected = correct_alpha(eigenspectrum(x), (5, 50), num_samples=200, num_features=300)
    score = metric.score(feature_moments(x)).item()
    assert score == pytest.approx(expected.alpha.item(), abs=1e-6)


def test_correction_must_be_known_and_asked_for():
    with pytest.raises(OptionError, match="'inversion', .* got 'richardson'"):
        AlphaReQ(bias_correction="richardson")
    with pytest.raises(OptionError, match="made without bias_correction="):
        AlphaReQ().corrected()
