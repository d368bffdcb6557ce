"""The labelled readout: how well a linear classifier does on frozen features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alphareq_lightning.errors import DataError

MAX_ITERATIONS = 1000


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    loader: DataLoader[Any],
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Features and labels of a dataset, with the backbone in eval mode.

    Every submodule is back in its own mode afterwards.

    Args:
        backbone: Images ``(n, c, h, w)`` → features ``(n, d)``; left on ``device``.
        loader: Batches of ``(images, labels)``.
        device: Where to run.

    Returns:
        Features ``(n, d)`` and labels ``(n,)``, on the CPU.

    Raises:
        DataError: If the loader is empty.
    """
    modes = {module: module.training for module in backbone.modules()}
    backbone.to(device).eval()
    features, labels = [], []
    try:
        for images, targets in loader:
            features.append(backbone(images.to(device)).flatten(start_dim=1).float().cpu())
            labels.append(targets)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not features:
        raise DataError("the loader gave no batch; a readout needs labelled images")
    return torch.cat(features), torch.cat(labels)


def linear_readout_accuracy(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> float:
    """Top-1 accuracy of multinomial logistic regression on standardised features.

    Args:
        train_features: Shape ``(n, d)``.
        train_labels: Class indices, shape ``(n,)``.
        test_features: Shape ``(m, d)``.
        test_labels: Class indices, shape ``(m,)``.

    Returns:
        Share of test samples that are classified rightly, from 0 to 1.

    Raises:
        DataError: If scikit-learn is missing, or there is only one class.

    Example:
        >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
        >>> linear_readout_accuracy(x, y, x, y)
        1.0
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise DataError(
            "the readout needs scikit-learn: pip install 'alphareq-lightning[demo]'"
        ) from error
    if train_labels.min() == train_labels.max():
        raise DataError("a readout needs labels of at least two classes")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    probe.fit(train_features.numpy(), train_labels.numpy())
    return float(probe.score(test_features.numpy(), test_labels.numpy()))
