import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional import feature_moments, merge_moments
from alphareq_lightning.functional.moments import CHUNK_ROWS, accumulate_, empty_moments
from alphareq_lightning.functional.products import mirror_

from oracles import planted_features


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    mean=st.sampled_from([0.0, -3.0, 1e3]),
)
def test_any_split_gives_the_same_moments(n, d, cuts, mean):
    x = torch.tensor(np.random.default_rng(n).standard_normal((n, d)) + mean)
    running = empty_moments(d)
    for batch in torch.tensor_split(x, sorted(min(cut, n) for cut in cuts)):
        accumulate_(running, batch)
    centred = x - x.mean(0)
    assert running.num_samples == n
    # float64 rounding of sums of n terms of size mean²
    torch.testing.assert_close(running.mean, x.mean(0), rtol=1e-12, atol=1e-12 * (1 + abs(mean)))
    torch.testing.assert_close(running.scatter, centred.T @ centred, rtol=1e-8, atol=1e-7)


def test_merging_is_seeing_both():
    x = torch.tensor(planted_features(1.0, 90, 7, mean=50.0))
    merged = merge_moments(feature_moments(x[:11]), feature_moments(x[11:]))
    whole = feature_moments(x)
    for got, expected in zip(merged, whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-9)


def test_merging_with_nothing_changes_nothing():
    moments = feature_moments(torch.randn(9, 4))
    for merged in (
        merge_moments(moments, empty_moments(4)),
        merge_moments(empty_moments(4), moments),
    ):
        for got, expected in zip(merged, moments, strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_state_is_float64_whatever_comes(dtype):
    moments = feature_moments(torch.randn(8, 3).to(dtype))
    assert {t.dtype for t in moments} == {torch.float64}


@pytest.mark.parametrize("d", [30, 700])
def test_autocast_stays_out(d):
    x = torch.randn(500, d, generator=torch.Generator().manual_seed(2)) + 3
    expected = feature_moments(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = feature_moments(x)
    # float32 products; bfloat16 would be off by 1e-3 of the diagonal
    torch.testing.assert_close(got.scatter, expected.scatter, rtol=1e-6, atol=2e-4)
    torch.testing.assert_close(got.mean, expected.mean, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_many_chunks_and_blocks_are_one_sum(dtype):
    x = torch.randn(2 * CHUNK_ROWS + 77, 300, generator=torch.Generator().manual_seed(3))
    x = (x * torch.linspace(0.1, 2, 300) + torch.arange(300)).to(dtype)
    running = accumulate_(empty_moments(300), x[:5])
    merged = merge_moments(accumulate_(running, x[5:]), empty_moments(300))
    centred = x.double() - x.double().mean(0)
    expected = centred.T @ centred
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6  # ε of float32 times √CHUNK_ROWS
    for scatter in (feature_moments(x).scatter, mirror_(merged.scatter)):
        torch.testing.assert_close(scatter, expected, rtol=0, atol=tolerance * expected.max())
    torch.testing.assert_close(merged.mean, x.double().mean(0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_drifting_mean_a_thousand_times_the_spread(dtype):
    x = torch.tensor(planted_features(1.0, 4000, 64))
    x = (x + 1000 * x.std() + torch.linspace(0, 0.1, 4000)[:, None].double()).to(dtype)
    running = empty_moments(64)
    for batch in x.split(64):
        accumulate_(running, batch)
    centred = x.double() - x.double().mean(0)
    expected = centred.T @ centred
    tolerance = 1e-9 if dtype == torch.float64 else 2e-7
    torch.testing.assert_close(
        mirror_(running.scatter), expected, rtol=0, atol=tolerance * expected.max()
    )


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_updates_on_a_gpu_are_never_read_by_the_host(device):
    # A GPU would have to be waited for. Fake tensors have a device and no values.
    with FakeTensorMode():
        try:
            torch.ones(2, device=device)[:1]
        except RuntimeError:
            pytest.skip(f"torch {torch.__version__} needs a driver to index fake tensors")
        running = empty_moments(8, device)
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            accumulate_(running, torch.ones(20, 8, dtype=dtype, device=device))
        with pytest.raises(DataDependentOutputException):
            running.num_samples.item()
    assert running.scatter.device.type == device


def test_arguments_are_left_alone():
    x = torch.randn(10, 4, requires_grad=True)
    before = x.detach().clone()
    assert not feature_moments(x).scatter.requires_grad
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (torch.ones(4), r"shape \(n, d\).*got shape \(4,\)"),
        (torch.ones(4, 0), r"d >= 1, got shape \(4, 0\)"),
        (torch.ones(2, 3, 4), r"got shape \(2, 3, 4\)"),
        (torch.ones(4, 3, dtype=torch.int64), "got torch.int64"),
        (torch.ones(4, 3, dtype=torch.complex64), "got torch.complex64"),
    ],
)
def test_refuses_what_is_not_a_feature_matrix(features, text):
    with pytest.raises(SpectrumError, match=text):
        feature_moments(features)


def test_refuses_another_width():
    with pytest.raises(SpectrumError, match=r"with 4 columns.*got shape \(2, 5\)"):
        accumulate_(feature_moments(torch.randn(3, 4)), torch.randn(2, 5))
