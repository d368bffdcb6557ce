import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional import feature_moments, merge_moments
from alphareq_lightning.functional.moments import accumulate_, empty_moments

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


def test_autocast_and_fast_matmuls_stay_out():
    x = torch.randn(500, 30, generator=torch.Generator().manual_seed(2)) + 3
    expected = feature_moments(x.double())
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # TF32, or bf16 where a CPU has it
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = feature_moments(x)
    finally:
        torch.set_float32_matmul_precision(precision)
    torch.testing.assert_close(got.scatter, expected.scatter, rtol=1e-12, atol=1e-9)


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
