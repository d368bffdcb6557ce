"""Whatever comes: no crash, no hang, and no finite α for features that have no spectrum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from alphareq_lightning import AlphaRecord, AlphaReQError
from alphareq_lightning.functional.moments import accumulate_, empty_moments
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.measurement import measure
from alphareq_lightning.measure.pooling import pool_features
from alphareq_lightning.metrics import StreamingMoments
from alphareq_lightning.metrics.scores import SCORES, Seen

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
KINDS = ["gaussian", "power", "low rank", "constant", "zero", "nan", "inf", "one hot", "huge"]


@st.composite
def layer_outputs(draw):
    """A layer's tensor of any shape, layout, dtype and content, and how many dimensions vary."""
    n, d = draw(st.integers(0, 80)), draw(st.integers(1, 48))
    kind = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x, rank = rng.standard_normal((n, d)), min(max(n - 1, 0), d)
    if kind == "power":
        x *= np.arange(1, d + 1) ** -draw(st.floats(0, 2))
    elif kind == "low rank":
        rank = min(rank, draw(st.integers(1, 3)))
        x = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d))
    elif kind in ("constant", "zero"):
        x, rank = np.full((n, d), 0.1 if kind == "constant" else 0.0), 0
    elif kind in ("nan", "inf") and n:
        x[draw(st.integers(0, n - 1)), draw(st.integers(0, d - 1))] = float(kind)
        rank = None
    elif kind == "one hot":
        x = np.eye(d)[rng.integers(0, d, n)]
        rank = None if n == 0 else min(rank, len(np.unique(x.argmax(1))))
    elif kind == "huge":
        x = x * 1e3 + 1e4
    x = x * draw(st.sampled_from([1e-6, 1.0, 1e3]))
    tensor = torch.tensor(x).to(draw(st.sampled_from(DTYPES)))
    if kind == "huge" and tensor.dtype in (torch.float16, torch.bfloat16):
        rank = None  # overflows, or is mostly rounding
    shape = draw(st.sampled_from([(), (1,), (1, 1), (1, 1, 1)]))
    tensor = tensor.view(n, d, *shape) if len(shape) != 1 else tensor.view(n, 1, d)
    if draw(st.booleans()):
        tensor = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if draw(st.booleans()):
        tensor = torch.stack([tensor, tensor], dim=-1)[..., 0]  # a stride of two
    if tensor.ndim == 4 and draw(st.booleans()):
        tensor = tensor.to(memory_format=torch.channels_last)
    return tensor, n, d, rank


def check(case, cuts, fit_range):
    tensor, n, d, rank = case
    features = pool_features(tensor)
    assert features.shape == (n, d)
    moments = empty_moments(d)
    for batch in torch.tensor_split(features, sorted(min(cut, n) for cut in cuts)):
        accumulate_(moments, batch, tensor.dtype)
    record = measure(Seen(moments), fit_range, tuple(SCORES))
    assert isinstance(record, AlphaRecord)
    assert set(record.scores) == set(SCORES)
    assert AlphaRecord.from_dict(record.to_dict()).to_dict().keys() == record.to_dict().keys()
    if record.problem is None:
        assert math.isfinite(record.alpha)
        assert record.r2 <= 1 + 1e-9
        assert record.fit_range[1] <= min(n - 1, d)
        assert rank is None or record.fit_range[1] <= rank
    else:
        assert math.isnan(record.alpha)
    if not bool(torch.isfinite(features).all()):
        assert math.isnan(record.alpha)


RANGES = st.one_of(st.just("auto"), st.tuples(st.integers(1, 20), st.integers(3, 60)))
ARGUMENTS = {"case": layer_outputs(), "cuts": st.lists(st.integers(0, 80), max_size=4)}


def valid(fit_range):
    return fit_range == "auto" or fit_range[1] - fit_range[0] >= 2


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(**ARGUMENTS, fit_range=RANGES.filter(valid))
def test_nothing_crashes_and_no_alpha_without_a_spectrum(case, cuts, fit_range):
    check(case, cuts, fit_range)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(**ARGUMENTS, fit_range=RANGES.filter(valid))
def test_ten_thousand_cases(case, cuts, fit_range):
    check(case, cuts, fit_range)


@settings(max_examples=200, deadline=None)
@given(
    fit_range=st.one_of(
        st.text(max_size=4), st.lists(st.integers(-5, 70), max_size=4), st.tuples(st.floats(0, 9))
    )
)
def test_ranges_work_or_are_refused_by_our_own_error(fit_range):
    features = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    moments = accumulate_(empty_moments(64), features)
    try:
        record = measure(Seen(moments), fit_range, ())
    except AlphaReQError:
        return
    assert record.problem is not None or math.isfinite(record.alpha)


# Said in so many words: nn.Identity does not tell where its channels are.
LAYOUTS = {
    "maps": ("mean_first", "flatten"),
    "clips": ("mean_first", "flatten"),
    "tokens": ("mean_last", "cls", "flatten"),
}


@st.composite
def spatial_outputs(draw):
    """Maps, clips and tokens with real extents in any memory layout, and a pool for them."""
    kind = draw(st.sampled_from(sorted(LAYOUTS)))
    n, d = draw(st.integers(0, 12)), draw(st.integers(1, 6))
    extents = {
        "maps": (n, d, draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        "clips": (n, d, draw(st.integers(1, 3)), draw(st.integers(1, 4)), 2),
        "tokens": (n, draw(st.integers(1, 7)), d),
    }[kind]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    tensor = torch.tensor(rng.standard_normal(extents)).to(draw(st.sampled_from(DTYPES)))
    layout = draw(st.sampled_from(["plain", "channels last", "transposed", "strided", "expanded"]))
    if layout == "channels last" and kind != "tokens":
        last = torch.channels_last if kind == "maps" else torch.channels_last_3d
        tensor = tensor.to(memory_format=last)
    elif layout == "transposed":
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided":
        tensor = torch.stack([tensor, tensor], dim=-1)[..., 0]
    elif layout == "expanded":
        tensor = tensor[..., :1].expand(extents)
    return tensor, draw(st.sampled_from(LAYOUTS[kind])), kind


def pooled_by_numpy(x, pool, kind):
    if pool == "flatten":
        return x.reshape(len(x), math.prod(x.shape[1:]))
    if kind == "tokens":
        return x[:, 0] if pool == "cls" else x.mean(axis=1)
    return x.mean(axis=tuple(range(2, x.ndim)))


def check_tap(case, cuts, max_samples):
    tensor, pool, kind = case
    tap = FeatureTap(Layer("net", nn.Identity(), "output"), pool)
    tap.start(max_samples=max_samples)
    tap.is_open = True
    for batch in torch.tensor_split(tensor, sorted(min(cut, len(tensor)) for cut in cuts)):
        tap.layer.module(batch)
    assert tap.problem is None
    wanted = len(tensor) if max_samples is None else min(len(tensor), max_samples)
    assert tap.num_samples == wanted
    truth = pooled_by_numpy(tensor.double().numpy(), pool, kind)[:wanted]
    moments = tap.moments.reduced()  # compute() would squeeze a width of one away
    assert moments.scatter.shape == (truth.shape[1],) * 2
    if wanted:
        # The mean over positions is taken in float32.
        centred = truth - truth.mean(axis=0)
        np.testing.assert_allclose(moments.mean, truth.mean(axis=0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(moments.scatter, centred.T @ centred, rtol=1e-4, atol=1e-4)


TAPPED = {
    "case": spatial_outputs(),
    "cuts": st.lists(st.integers(0, 12), max_size=3),
    "max_samples": st.one_of(st.none(), st.integers(1, 12)),
}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(**TAPPED)
def test_taps_agree_with_numpy_on_any_layout(case, cuts, max_samples):
    check_tap(case, cuts, max_samples)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(**TAPPED)
def test_ten_thousand_taps(case, cuts, max_samples):
    check_tap(case, cuts, max_samples)


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_streams_merged_in_any_split_agree_with_numpy(sizes, seed):
    x = np.random.default_rng(seed).standard_normal((sum(sizes), 3)) + 50.0
    parts = [StreamingMoments() for _ in sizes]
    for part, rows in zip(parts, np.split(x, np.cumsum(sizes)[:-1]), strict=True):
        part.update(torch.tensor(rows))
    for part in parts[1:]:
        parts[0].merge_state(part)
    moments = parts[0].compute()
    assert moments.num_samples == len(x)
    if len(x):
        centred = x - x.mean(axis=0)
        np.testing.assert_allclose(moments.scatter, centred.T @ centred, rtol=1e-9, atol=1e-9)
