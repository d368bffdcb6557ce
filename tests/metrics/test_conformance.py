"""What torchmetrics asks of any Metric, of each of ours: moved, copied, merged, spread, wrapped."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.wrappers import BootStrapper, MetricTracker, MinMaxMetric, Running

from alphareq_lightning import metrics
from alphareq_lightning.errors import OptionError
from alphareq_lightning.functional import FeatureMoments
from alphareq_lightning.metrics import (
    Alignment,
    AlphaReQ,
    Coherence,
    ConditionNumber,
    CrossValidatedAlpha,
    EffectiveRank,
    FeatureSample,
    IdEst,
    IntrinsicDimension,
    LiDAR,
    MatrixEntropy,
    NESum,
    ParticipationRatio,
    RankMe,
    SelfCluster,
    StableRank,
    StreamingMoments,
    TwinsError,
    Uniformity,
    score_metric,
)

import oracles
from ranks import spawn

X = torch.tensor(oracles.planted_features(1.0, 480, 40, mean=0.3)).float()
BATCHES = X.split(80)
PAIRS = [(a, a + 0.1 * a.flip(0)) for a in BATCHES]
METRICS = {
    "AlphaReQ": AlphaReQ,
    "AlphaReQ inversion": lambda **kw: AlphaReQ((4, 16), bias_correction="inversion", **kw),
    "RankMe": RankMe,
    "EffectiveRank": EffectiveRank,
    "ParticipationRatio": ParticipationRatio,
    "NESum": NESum,
    "StableRank": StableRank,
    "ConditionNumber": ConditionNumber,
    "MatrixEntropy": MatrixEntropy,
    "SelfCluster": SelfCluster,
    "Uniformity": Uniformity,
    "IdEst": IdEst,
    "IntrinsicDimension": IntrinsicDimension,
    "Coherence": Coherence,
    "LiDAR": LiDAR,
    "Alignment": Alignment,
    "CrossValidatedAlpha": lambda **kw: CrossValidatedAlpha((4, 16), **kw),
    "TwinsError": TwinsError,
    "StreamingMoments": StreamingMoments,
    "FeatureSample": FeatureSample,
    "SpectralScore": lambda **kw: score_metric("nesum", **kw),
    "DirectionScore": lambda **kw: score_metric("selfcluster", **kw),
    "SampleScore": lambda **kw: score_metric("coherence", **kw),
}
NOT_NUMBERS = ("StreamingMoments", "FeatureSample")
NUMBERS = [name for name in METRICS if name not in NOT_NUMBERS]
COUNTS_ROWS = (
    "FeatureSample",
    "SampleScore",
    "Uniformity",
    "IdEst",
    "IntrinsicDimension",
    "Coherence",
)
"""What a row does depends on its number, so that batches cannot be seen apart and put together."""
TOLERANCE = {"rtol": 1e-6, "atol": 1e-5}
"""Float32 products of other batches round in another way, by 1e-7 of a sum of squares of 100."""


def arguments(name):
    if name == "LiDAR":
        return [(torch.stack(pair, dim=1),) for pair in PAIRS]
    if name in ("Alignment", "CrossValidatedAlpha", "TwinsError"):
        return PAIRS
    if name == "IdEst":  # so few points have a dimension where it is small
        return [(batch[:, :2],) for batch in BATCHES]
    return [(batch,) for batch in BATCHES]


def updated(name, batches=slice(None), **options):
    metric = METRICS[name](**options)
    for args in arguments(name)[batches]:
        metric.update(*args)
    return metric


def numbers(metric):
    """What it computes, as tensors that do not depend on the order of samples and batches."""
    value = metric.compute()
    if isinstance(value, FeatureMoments):
        return value[:3]  # how much was rounded hangs on the batches
    if isinstance(metric, FeatureSample) and value.ndim == 2:
        return value[value[:, 0].argsort()]
    return value


def same(metric, expected):
    torch.testing.assert_close(numbers(metric), expected, **TOLERANCE)


def test_every_metric_of_the_package_is_here():
    tested = {type(make()).__name__ for make in METRICS.values()}
    classes = {name for name in metrics.__all__ if isinstance(getattr(metrics, name), type)}
    assert tested == classes | {"DirectionScore"}


@pytest.mark.parametrize("name", METRICS)
def test_copies_go_on_by_themselves(name):
    metric, expected = updated(name, slice(3)), numbers(updated(name))
    before = numbers(metric)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        for args in arguments(name)[3:]:
            other.update(*args)
        same(other, expected)
    metric._computed = None
    same(metric, before)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("how", ["to", "set_dtype", "half", "bfloat16", "module to", "module half"])
def test_moved_to_half_precision_the_state_keeps_its_digits(name, how):
    metric, expected = updated(name, slice(3)), numbers(updated(name))
    module = nn.ModuleDict({"metric": metric})
    {
        "to": lambda: metric.to(torch.float16),
        "set_dtype": lambda: metric.set_dtype(torch.float16),
        "half": lambda: metric.half(),
        "bfloat16": lambda: metric.bfloat16(),
        "module to": lambda: module.to(torch.bfloat16),
        "module half": lambda: module.half(),
    }[how]()
    for args in arguments(name)[3:]:
        metric.update(*args)
    same(metric, expected)


@pytest.mark.parametrize("name", METRICS)
def test_moved_to_a_device_and_reset(name):
    metric = updated(name).to("cpu")
    expected = numbers(metric)
    metric.reset()
    for args in arguments(name):
        metric.update(*args)
    same(metric, expected)


@pytest.mark.parametrize("name", METRICS)
def test_begun_in_inference_mode_goes_on_outside(name):
    with torch.inference_mode():
        metric = updated(name, slice(3))
    for args in arguments(name)[3:]:
        metric.update(*args)
    same(metric, numbers(updated(name)))


@pytest.mark.parametrize("name", METRICS)
def test_hash_tells_two_metrics_apart(name):
    one, other = updated(name, slice(1)), updated(name, slice(1))
    assert len({hash(one), hash(other)}) == 2


@pytest.mark.parametrize("name", METRICS)
def test_merging_is_seeing_both(name):
    metric = updated(name, slice(0, 2))
    metric.merge_state(updated(name, slice(2, None)))
    same(metric, numbers(updated(name)))


@pytest.mark.parametrize("name", METRICS)
def test_forward_gives_the_batch_and_keeps_the_sum(name):
    metric = METRICS[name]()
    for index, args in enumerate(arguments(name)):
        value = metric(*args)
        if name not in NOT_NUMBERS:
            expected = numbers(updated(name, slice(index, index + 1)))
            torch.testing.assert_close(value, expected, **TOLERANCE)
    same(metric, numbers(updated(name)))


def run_on_two(rank, world_size, folder):
    values = {}
    for name in METRICS:
        metric = updated(name, slice(rank, None, world_size))
        values[name] = numbers(metric)
        # Unsynchronised again, it holds what this rank has seen.
        metric.update(*arguments(name)[rank])
    torch.save(values, folder / f"{rank}.pt")


def test_two_processes_give_what_one_gives(tmp_path):
    spawn(run_on_two, 2, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for name in METRICS:
        one = updated(name, slice(0, None, 2))
        one.merge_state(updated(name, slice(1, None, 2)))
        expected = numbers(one)
        if name == "FeatureSample":
            continue  # its rows, in another order: what reads them is compared
        for values in found:
            torch.testing.assert_close(values[name], expected, **TOLERANCE, msg=name)
        torch.testing.assert_close(expected, numbers(updated(name)), **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in COUNTS_ROWS])
def test_running_reads_the_last_batches(name):
    running = Running(METRICS[name](), window=2)
    for args in arguments(name):
        running.update(*args)
    value = running.compute()
    value = value[:3] if isinstance(value, FeatureMoments) else value
    torch.testing.assert_close(value, numbers(updated(name, slice(-2, None))), **TOLERANCE)


@pytest.mark.parametrize("name", COUNTS_ROWS)
def test_running_refuses_what_counts_rows(name):
    with pytest.raises(ValueError, match="`full_state_update` set to `False` but got True"):
        Running(METRICS[name](), window=2)


@pytest.mark.parametrize("name", NUMBERS)
def test_tracked_and_bounded(name):
    tracker = MetricTracker(METRICS[name](), maximize=True)
    bounded = MinMaxMetric(METRICS[name]())
    values = []
    for args in arguments(name)[:3]:
        tracker.increment()
        tracker.update(*args)
        values.append(bounded(*args)["raw"].item())
    assert tracker.compute_all().tolist() == pytest.approx(values, rel=1e-6)
    assert tracker.best_metric() == pytest.approx(max(values), rel=1e-6)


@pytest.mark.parametrize("name", NUMBERS)
def test_bootstrapped(name):
    torch.manual_seed(0)
    bootstrapped = BootStrapper(METRICS[name](), num_bootstraps=3, sampling_strategy="multinomial")
    for args in arguments(name):
        bootstrapped.update(*args)
    found = bootstrapped.compute()
    assert found["std"] > 0
    assert found["mean"].isfinite()


def test_in_a_collection_each_is_as_alone():
    others = ("LiDAR", "IdEst")  # that see other batches
    names = [n for n in NUMBERS if len(arguments(n)[0]) == 1 and n not in others]
    collection = MetricCollection({name.replace(" ", "_"): METRICS[name]() for name in names})
    for batch in BATCHES:
        collection(batch)
    for name in names:
        value = collection.compute()[name.replace(" ", "_")]
        torch.testing.assert_close(value, numbers(updated(name)), **TOLERANCE)


@pytest.mark.parametrize("name", NUMBERS)
def test_plots_one_value_and_several(name):
    pytest.importorskip("matplotlib").use("agg")
    metric = updated(name)
    figure, axes = metric.plot()
    assert axes.lines[0].get_ydata() == pytest.approx([metric.compute().item()])
    assert axes.figure is figure
    values = [torch.tensor(value) for value in (1.0, 3.0, 2.0)]
    _, axes = metric.plot(values)
    assert axes.lines[0].get_ydata().tolist() == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("name", NOT_NUMBERS)
def test_what_is_no_number_says_what_to_plot(name):
    with pytest.raises(OptionError, match="no number to draw; plot a score"):
        updated(name).plot()
