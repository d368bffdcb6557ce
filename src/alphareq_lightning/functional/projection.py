"""Random projection of features too wide for a covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError
from alphareq_lightning.functional.moments import check_features

_PROJECTED_FEATURES = 2048
_PROJECTION_SEED = 0
"""Fixed: every batch, rank, epoch and run sees the same projection."""


def project_features(
    features: Tensor, num_features: int = _PROJECTED_FEATURES, *, seed: int = _PROJECTION_SEED
) -> Tensor:
    """Sketch ``d`` features as ``num_features`` sums of randomly signed, disjoint groups of them.

    Inner products are kept on average, with an error that falls as ``1/√num_features``: no
    ``d × num_features`` matrix, which a convolution's maps would need gigabytes for. The first
    eigenvalues of the covariance survive; ranks near ``num_features`` do not, much as if there
    were only as many samples.

    Args:
        features: Floating-point features, shape ``(n, d)``.
        num_features: How many are left; narrower features stay as they are.
        seed: Of signs and groups. The global random state is neither used nor changed.

    Returns:
        Shape ``(n, min(d, num_features))``, float32 or wider.

    Raises:
        SpectrumError: If ``features`` is not a floating-point ``(n, d)`` matrix.
        OptionError: If ``num_features`` is not positive.

    Example:
        >>> project_features(torch.randn(4, 100_352)).shape
        torch.Size([4, 2048])
    """
    check_features(features)
    if num_features < 1:
        raise OptionError(f"expected num_features >= 1, got {num_features}")
    width = features.shape[1]
    if width <= num_features:
        return features
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(width, generator=generator).to(features.device)
    signs = torch.randint(0, 2, (width,), generator=generator, dtype=torch.int8) * 2 - 1
    wide = features if features.dtype == torch.float64 else features.float()
    mixed = (wide * signs.to(wide))[:, order]
    mixed = torch.nn.functional.pad(mixed, (0, -width % num_features))
    return mixed.reshape(len(mixed), -1, num_features).sum(dim=1)
