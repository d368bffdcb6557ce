import pytest
import torch

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional import (
    effective_rank,
    eigenspectrum,
    feature_moments,
    moments_singular_values,
    participation_ratio,
    rankme,
)

import oracles


@pytest.mark.parametrize(("n", "d"), [(300, 50), (50, 300)])
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_scores_match_numpy(n, d, mean):
    x = oracles.planted_features(1.0, n, d, mean=mean)
    features = torch.tensor(x)
    singular_values = moments_singular_values(feature_moments(features))
    # Streaming squares the singular values: the tail keeps half of its digits.
    assert rankme(singular_values).item() == pytest.approx(oracles.rankme(x), rel=1e-6)
    assert rankme(torch.linalg.svdvals(features)).item() == pytest.approx(
        oracles.rankme(x), rel=1e-12
    )
    spectrum = eigenspectrum(features)
    assert effective_rank(spectrum).item() == pytest.approx(oracles.effective_rank(x), rel=1e-9)
    assert participation_ratio(spectrum).item() == pytest.approx(
        oracles.participation_ratio(x), rel=1e-9
    )


@pytest.mark.parametrize("score", [rankme, effective_rank, participation_ratio])
def test_scores_count_equal_directions(score):
    for rank in (1, 7, 64):
        values = torch.zeros(64, dtype=torch.float64)
        values[:rank] = 3.0
        # RankMe adds 1e-7 to each of 64 shares.
        assert score(values).item() == pytest.approx(rank, rel=2e-4)


@pytest.mark.parametrize("score", [rankme, effective_rank, participation_ratio])
@pytest.mark.parametrize(
    ("values", "text"),
    [
        (torch.zeros(4), "not all 0"),
        (torch.tensor([1.0, -1.0, float("nan")]), "2 negative or non-finite"),
        (torch.ones(2, 2), r"got shape \(2, 2\)"),
    ],
)
def test_no_spectrum_no_score(score, values, text):
    with pytest.raises(SpectrumError, match=text):
        score(values)
