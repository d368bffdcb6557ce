import math

import numpy as np
import pytest
import scipy.stats
import torch

from alphareq_lightning import (
    SelectionError,
    fit_power_law,
    metrics,
    rank_checkpoints,
    window_agreement,
)
from alphareq_lightning.metrics.scores import SCORES, better
from alphareq_lightning.selection import (
    cautions,
)
from alphareq_lightning.selection.ranking import agreement

from plain_records import plain_record


def record(alpha, **values):
    return plain_record(alpha=alpha, **{"layer": "backbone", **values})


def alphas(records):
    return [r.alpha for r in records]


def test_nearest_to_the_target_first():
    records = [record(a) for a in (0.2, 1.4, 0.9, 3.0)]
    assert alphas(rank_checkpoints(records)) == [0.9, 1.4, 0.2, 3.0]
    assert alphas(rank_checkpoints(records, target=3.1)) == [3.0, 1.4, 0.9, 0.2]


def test_inside_an_interval_the_earlier_comes_first():
    records = [record(1.1, global_step=20), record(0.9, global_step=10), record(2.0)]
    assert alphas(rank_checkpoints(records, target=(0.8, 1.2))) == [0.9, 1.1, 2.0]


def test_what_is_not_believed_comes_last():
    records = [record(math.nan), record(1.0, r2=0.5), record(3.0)]
    ranked = rank_checkpoints(records, min_r2=0.95)
    assert ranked[0].alpha == 3.0
    assert ranked[1].alpha == 1.0
    assert math.isnan(ranked[2].alpha)


def test_empty():
    assert rank_checkpoints([]) == []


def test_layers_do_not_mix():
    with pytest.raises(SelectionError, match=r"\['backbone', 'projector'\]"):
        rank_checkpoints([record(1.0), record(1.0, layer="projector")])


def test_windows_do_not_mix_unless_forced():
    records = [record(2.0), record(1.0, fit_range=(11, 100)), record(math.nan, fit_range=None)]
    with pytest.raises(SelectionError, match="windows do not compare: ranks 4–51, 11–100; refit"):
        rank_checkpoints(records)
    assert alphas(rank_checkpoints(records, force=True))[:2] == [1.0, 2.0]


def test_names_do_not_repeat():
    twice = [record(1.0, path="a.ckpt"), record(2.0, path="a.ckpt")]
    with pytest.raises(SelectionError, match="two records of a.ckpt at step 0, with α = 1.000 "):
        rank_checkpoints(twice)


def test_by_another_score():
    records = [
        record(1.0, scores={"rankme": 10.0}, metrics={"val_loss": 5.0, "val_acc": 0.1}),
        record(2.0, scores={"rankme": 30.0}, metrics={"val_loss": 9.0, "val_acc": 0.3}),
        record(3.0, scores={"rankme": math.nan}),
    ]
    assert alphas(rank_checkpoints(records, by="rankme")) == [2.0, 1.0, 3.0]
    assert alphas(rank_checkpoints(records, by="val_loss")) == [1.0, 2.0, 3.0]
    assert alphas(rank_checkpoints(records, by="val_acc")) == [2.0, 1.0, 3.0]
    with pytest.raises(SelectionError, match="no record has 'nothing'; there are: alpha, rankme"):
        rank_checkpoints(records, by="nothing")


def test_by_a_score_of_which_less_is_better():
    records = [
        record(alpha, scores={"condition_number": value, "intrinsic_dimension": 9.0})
        for alpha, value in ((1.0, math.inf), (2.0, 50.0), (3.0, 10.0), (4.0, math.nan))
    ]
    assert alphas(rank_checkpoints(records, by="condition_number")) == [3.0, 2.0, 1.0, 4.0]
    with pytest.raises(SelectionError, match="neither more nor less of 'intrinsic_dimension'"):
        rank_checkpoints(records, by="intrinsic_dimension")


def test_every_score_goes_the_way_of_its_metric():
    metric_of = {name.lower(): getattr(metrics, name) for name in metrics.__all__}
    metric_of["cvpca"] = metrics.CrossValidatedAlpha
    for name in SCORES:
        plain = name.removesuffix("_corrected").replace("_", "")
        higher_is_better = metric_of[plain].higher_is_better
        assert higher_is_better is {"higher": True, "lower": False}.get(better(name)), name


def test_refit_is_the_fit_of_the_functional_package():
    rng = np.random.default_rng(0)
    spectrum = np.sort(np.arange(1, 257) ** -1.2 * rng.lognormal(0, 0.1, 256))[::-1]
    again = record(1.0, eigenvalues=tuple(spectrum)).refit((11, 100))
    truth = fit_power_law(torch.tensor(spectrum.copy()), (11, 100))
    assert again.alpha == pytest.approx(truth.alpha.item(), abs=1e-10)
    assert again.r2 == pytest.approx(truth.r2.item(), abs=1e-10)
    assert again.fit_range == (11, 100)
    assert again.stderr == pytest.approx(truth.stderr.item(), abs=1e-10)
    for window, why in (((11, 300), "past the 256 eigenvalues"), ((4, 5), "at least 3 are needed")):
        bare = record(1.0, eigenvalues=tuple(spectrum)).refit(window)
        assert bare.fit is None
        assert why in bare.problem


@pytest.mark.parametrize("window", [(5, 40), (5, 400)])
def test_a_corrected_alpha_of_the_old_window_is_dropped(window):
    corrected = {"alpha_corrected": 1.1, "alpha_stderr": 0.1, "bias_correction": "inversion"}
    power = tuple(n**-1.5 for n in range(1, 60))
    again = record(1.5, eigenvalues=power, **corrected).refit(window)
    assert [getattr(again, name) for name in corrected] == [None] * 3


def test_the_agreement_of_two_orders_is_scipys():
    """Ties and constant orders included; torchmetrics counts in float32."""
    rng = np.random.default_rng(1)
    for size in (4, 15, 40) * 10:
        a, b = rng.integers(0, 6, (2, size)).astype(float)
        assert agreement(a, b) == pytest.approx(scipy.stats.kendalltau(a, b).statistic, abs=1e-6)
    assert math.isnan(agreement([1, 1], [1, 2]))


def bent(head, tail, **values):
    """A spectrum of one slope up to rank 20 and another after it."""
    n = np.arange(1, 257)
    spectrum = np.where(n < 20, n**-head, 20.0 ** (tail - head) * n**-tail)
    return record(1.0, eigenvalues=tuple(spectrum), **values).refit((4, 51))


def test_a_caution_when_the_order_hangs_on_the_window():
    bends = [(0.6, 2.6), (0.9, 2.0), (1.2, 1.4), (1.5, 1.0), (1.8, 0.9)]
    [text] = cautions([bent(*slopes) for slopes in bends], target=0.0)[:1]
    assert "the order hangs on the fit window: over ranks 8–51 instead of 4–51" in text
    assert "Kendall τ = -" in text
    straight = [bent(slope, slope) for slope in (0.6, 0.9, 1.2, 1.5, 1.8)]
    assert cautions(straight, target=0.0) == []


def test_a_caution_when_rankme_disagrees():
    ranks = {0.6: 10.0, 0.9: 20.0, 1.2: 30.0, 1.5: 40.0}
    records = [
        bent(slope, slope, scores={"rankme": rank}, path=f"{slope}.ckpt")
        for slope, rank in ranks.items()
    ]
    [text] = cautions(records, target=0.0)
    assert "α and RankMe disagree (Kendall τ = -1.00): RankMe would choose 1.5.ckpt" in text
    assert cautions(records, target=3.0) == []
    assert cautions(records[:3], target=0.0) == []  # three models say nothing about an order


def broken(alpha, beta, **values):
    """Two exponents with a bend at rank 20."""
    spectrum = tuple(n**-alpha * max(n / 20, 1) ** (alpha - beta) for n in range(1, 101))
    return record(alpha, fit_range=(4, 20), eigenvalues=spectrum, **values)


def test_an_order_that_the_window_turns_does_not_survive():
    turning = [broken(1 + i / 10, 2 - i / 10) for i in range(5)]
    found = window_agreement(turning, [(2, 20), (25, 100), (4, 400)])
    assert found.taus[2, 20] == 1
    assert found.taus[25, 100] == found.worst == -1
    assert math.isnan(found.taus[4, 400])  # past the stored eigenvalues
    assert not found.survives
    straight = [broken(1 + i / 10, 1 + i / 10) for i in range(5)]
    assert window_agreement(straight, [(2, 20), (25, 100)]).survives
    assert not window_agreement(straight, [(4, 400)]).survives  # nothing was compared


def test_too_few_or_mixed_records_have_no_agreement():
    with pytest.raises(SelectionError, match="order of 3 fitted records .* at least 4"):
        window_agreement([broken(1.0, 1.0)] * 3, [(2, 20)])
    with pytest.raises(SelectionError, match="different layers"):
        window_agreement([broken(1.0, 1.0), broken(1.0, 1.0, layer="fc")], [(2, 20)])


def test_a_model_that_was_measured_twice_counts_once():
    twice = [record(1.0, path="a.ckpt"), record(1.0, path="a.ckpt", accuracy=50.0)]
    failed = [record(math.nan, path="b.ckpt", fit_range=None)] * 2
    assert [r.accuracy for r in rank_checkpoints([*twice, *failed])] == [50.0, None]
