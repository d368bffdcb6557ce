import pickle

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from alphareq_lightning.errors import NoFitWarning, OptionError, SpectrumError
from alphareq_lightning.metrics import (
    Alignment,
    Coherence,
    FeatureSample,
    IntrinsicDimension,
    SelfCluster,
    Uniformity,
)

import oracles

X = oracles.planted_features(0.8, 500, 12, mean=0.5)
SCORES = {
    Uniformity: oracles.uniformity,
    IntrinsicDimension: oracles.twonn_dimension,
    Coherence: oracles.coherence,
}


@pytest.mark.parametrize("metric_class", SCORES)
def test_a_sample_of_everything_is_exact(metric_class):
    metric = metric_class()
    for batch in torch.tensor(X).split(37):
        metric.update(batch)
    assert metric.compute().item() == pytest.approx(SCORES[metric_class](X), rel=1e-6)
    metric.reset()
    assert metric.kept.numel() == metric.seen == 0


def test_collection_shares_one_sample():
    collection = MetricCollection([m() for m in SCORES])
    for batch in torch.tensor(X).split(100):
        collection.update(batch)
    values = collection.compute()
    for metric_class, truth in SCORES.items():
        assert values[metric_class.__name__].item() == pytest.approx(truth(X), rel=1e-6)
    [group] = collection.compute_groups.values()
    assert len(group) == 3


@pytest.mark.parametrize("size", [1, 7, 500])
def test_any_split_keeps_the_same_rows(size):
    metric = FeatureSample(max_samples=60)
    for batch in torch.tensor(X).split(size):
        metric.update(batch)
    whole = FeatureSample(max_samples=60)
    whole.update(torch.tensor(X))
    assert torch.equal(metric.compute(), whole.compute())
    assert metric.seen == 500


@pytest.mark.parametrize("period", [1, 2, 3, 5, 8, 10, 64])
def test_sample_is_spread_evenly(period):
    """Over the data's order, and over whatever repeats in it: classes in turn, for example."""
    n, kept = 8000, 800
    metric = FeatureSample(max_samples=kept)
    metric.update(torch.arange(float(n))[:, None])
    rows = metric.compute()[:, 0].numpy().astype(int)
    in_each = np.bincount(rows * 10 // n, minlength=10)
    assert abs(in_each - kept / 10).max() <= 3
    of_each = np.bincount(rows % period, minlength=period)
    assert abs(of_each - kept / period).max() <= 4


def test_merging_samples():
    halves = [FeatureSample(max_samples=50) for _ in range(2)]
    for half, rows in zip(halves, torch.tensor(X).split(250), strict=True):
        half.update(rows)
    halves[0].merge_state(pickle.loads(pickle.dumps(halves[1])))
    merged = halves[0].compute()
    assert len(merged) == 50
    from_first = (merged[:, None] == torch.tensor(X[:250])).all(dim=2).any(dim=1)
    assert from_first.sum() == 25
    assert halves[0].seen == 500
    empty = FeatureSample()
    empty.merge_state(FeatureSample())
    assert empty.reduced() is None


def test_half_precision_and_inference_mode():
    metric = FeatureSample()
    with torch.inference_mode():
        metric.update(torch.ones(4, 3, dtype=torch.bfloat16))
    metric.update(torch.zeros(2, 3, dtype=torch.bfloat16))
    assert metric.compute().dtype == torch.float32
    assert metric.compute().sum() == 12
    assert torch.equal(metric.reduced(), metric.compute())


def test_no_score_is_nan_and_a_warning():
    metric = IntrinsicDimension()
    metric.update(torch.ones(20, 3))
    with pytest.warns(NoFitWarning, match="IntrinsicDimension is NaN: .*10 different samples"):
        assert metric.compute().isnan()
    metric = Coherence()
    metric.update(torch.eye(3))
    with pytest.warns(NoFitWarning, match="got 3 samples of rank 3"):
        assert metric.compute().isnan()
    with pytest.warns(NoFitWarning, match="no features were seen"):
        assert Uniformity().compute().isnan()


def test_bad_input():
    with pytest.raises(OptionError, match="max_samples >= 3, got 2"):
        FeatureSample(max_samples=2)
    metric = FeatureSample()
    metric.update(torch.ones(2, 3))
    with pytest.raises(SpectrumError, match=r"with 3 columns as in the batches before, .*\(2, 4\)"):
        metric.update(torch.ones(2, 4))
    with pytest.raises(SpectrumError, match=r"got shape \(3,\)"):
        metric.update(torch.ones(3))


def test_nan_features_end_no_training_but_warn():
    x = torch.randn(20, 3)
    x[4, 1] = torch.nan
    for metric, batch in ((Uniformity(), (x,)), (SelfCluster(), (x,)), (Alignment(), (x, x))):
        metric.update(*batch)
        with pytest.warns(NoFitWarning, match="is NaN: .*NaN or infinite"):
            assert metric.compute().isnan()


def test_what_is_no_state_is_not_merged():
    one, other = FeatureSample(), FeatureSample()
    with pytest.raises(SpectrumError, match=r"expected a state with 'kept', got \['x'\]"):
        one.merge_state({"x": 1})
    one.update(torch.ones(2, 3))
    other.update(torch.ones(2, 4))
    with pytest.raises(SpectrumError, match="cannot merge samples of 3 and 4 features"):
        one.merge_state(other)


def test_samples_of_different_size_are_not_shared():
    few, many = Uniformity(max_samples=50), Uniformity(max_samples=400)
    collection = MetricCollection({"few": few, "many": many})
    for batch in torch.tensor(X).split(20):
        collection.update(batch)
    collection.compute()
    assert (len(collection["few"].sample()), len(collection["many"].sample())) == (50, 400)
