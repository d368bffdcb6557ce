"""The recipe's smallest backbone."""

from __future__ import annotations

from torch import nn


class MLP(nn.Sequential):
    """Two hidden layers on the pixels: seconds of training on a CPU, for images of digits.

    Args:
        in_features: Pixels times channels; 3 × 16 × 16 of the `DigitsDataModule`.
        hidden: Width of the hidden layer.
        num_features: Width of the features.

    Example:
        >>> import torch
        >>> MLP()(torch.ones(2, 3, 16, 16)).shape
        torch.Size([2, 256])
    """

    def __init__(self, in_features: int = 768, hidden: int = 512, num_features: int = 256) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(in_features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_features, bias=False),
            nn.BatchNorm1d(num_features),
            nn.ReLU(inplace=True),
        )
        self.num_features = num_features
