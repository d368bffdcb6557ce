import copy
import pickle

import pytest
import torch

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional import feature_moments
from alphareq_lightning.metrics import StreamingMoments

from oracles import planted_features

X = torch.tensor(planted_features(1.0, 500, 24, mean=30.0))


def streamed(x, size):
    metric = StreamingMoments()
    for batch in x.split(size):
        metric.update(batch)
    return metric


@pytest.mark.parametrize("size", [1, 7, 128, 500])
def test_any_split(size):
    for got, expected in zip(streamed(X, size).compute(), feature_moments(X), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_memory_does_not_grow_with_samples():
    metric = streamed(X, 50)
    numbers = sum(getattr(metric, name).numel() for name in metric._defaults)
    assert numbers == 24 * 24 + 24 + 3


def test_update_makes_no_copy_of_the_state():
    metric = streamed(X, 100)
    address = metric.packed.data_ptr()
    metric.update(X[:10])
    assert metric.packed.data_ptr() == address


def test_state_made_in_inference_mode_goes_on_outside():
    metric = StreamingMoments()
    with torch.inference_mode():
        metric.update(X[:100].clone())
    metric.update(X[100:])
    torch.testing.assert_close(metric.compute().scatter, feature_moments(X).scatter)


def test_state_merged_in_inference_mode_is_read_outside():
    metric = streamed(X[:200], 100)
    with torch.inference_mode():
        metric.merge_state(streamed(X[200:], 100))
    torch.testing.assert_close(metric.moments().scatter, feature_moments(X).scatter)
    metric.update(X[:5])  # nor is it one that only inference mode may write to
    assert metric.moments().num_samples == len(X) + 5


def test_merging_states():
    first, second = streamed(X[:200], 50), streamed(X[200:], 50)
    first.merge_state(second)
    torch.testing.assert_close(first.compute().scatter, feature_moments(X).scatter)
    empty = StreamingMoments()
    empty.merge_state(first)
    empty.merge_state(StreamingMoments())
    assert empty.compute().num_samples == 500
    with pytest.raises(SpectrumError, match="states of 24 and 3 features"):
        first.merge_state(streamed(torch.randn(5, 3), 5))
    with pytest.raises(SpectrumError, match="expected a state with 'packed'"):
        first.merge_state({"total": 1})


def test_reset_copy_and_pickle():
    metric = streamed(X, 100)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert other.compute().num_samples == 500
    metric.reset()
    metric.update(torch.randn(4, 3))
    assert metric.num_features == 3


def test_nothing_seen():
    assert StreamingMoments().reduced() is None
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(SpectrumError, match="no features were seen"),
    ):
        StreamingMoments().compute()


def test_refuses_a_change_of_width():
    metric = streamed(X, 100)
    with pytest.raises(SpectrumError, match=r"24 columns.*\(2, 5\)"):
        metric.update(torch.randn(2, 5))


def test_wide_layers_are_complete_wherever_they_may_be_read():
    # Updates bring only the upper blocks up to date; 300 features are more than one block.
    x = torch.tensor(planted_features(1.0, 400, 300))
    metric, other = StreamingMoments(), StreamingMoments()
    metric.update(x[:150])
    other.update(x[150:])
    metric.merge_state(other)
    expected = feature_moments(x).scatter
    for got in (metric.moments(), metric.reduced()):
        torch.testing.assert_close(got.scatter, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(got.scatter, got.scatter.T, rtol=0, atol=1e-12)
