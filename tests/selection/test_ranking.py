import math
from dataclasses import replace

import pytest

from alphareq_lightning import AlphaRecord, SelectionError, rank_checkpoints, window_agreement


def record(alpha, *, r2=0.99, layer="backbone", global_step=0):
    return AlphaRecord(
        alpha=alpha,
        r2=r2,
        stderr=0.0,
        fit_range=(4, 51),
        num_samples=1000,
        num_features=256,
        layer=layer,
        global_step=global_step,
    )


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


def bent(alpha, beta, **values):
    """Two exponents with a bend at rank 20."""
    spectrum = tuple(n**-alpha * max(n / 20, 1) ** (alpha - beta) for n in range(1, 101))
    return replace(record(alpha, **values), fit_range=(4, 20), eigenvalues=spectrum)


def test_an_order_that_the_window_turns_does_not_survive():
    turning = [bent(1 + i / 10, 2 - i / 10) for i in range(5)]
    found = window_agreement(turning, [(2, 20), (25, 100), (4, 400)])
    assert found.taus[2, 20] == 1
    assert found.taus[25, 100] == found.worst == -1
    assert math.isnan(found.taus[4, 400])  # past the stored eigenvalues
    assert not found.survives
    straight = [bent(1 + i / 10, 1 + i / 10) for i in range(5)]
    assert window_agreement(straight, [(2, 20), (25, 100)]).survives
    assert not window_agreement(straight, [(4, 400)]).survives  # nothing was compared


def test_too_few_or_mixed_records_have_no_agreement():
    with pytest.raises(SelectionError, match="order of 3 fitted records .* at least 4"):
        window_agreement([bent(1.0, 1.0)] * 3, [(2, 20)])
    with pytest.raises(SelectionError, match="different layers"):
        window_agreement([bent(1.0, 1.0), bent(1.0, 1.0, layer="fc")], [(2, 20)])
