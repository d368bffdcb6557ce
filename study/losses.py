"""SimCLR and VICReg with the backbone, projector and optimizer of the Barlow Twins recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightly.loss import NTXentLoss, VICRegLoss
from torch import Tensor, nn

from alphareq_lightning.recipes import BarlowTwins


class OneTerm(NamedTuple):
    """A loss that is logged whole."""

    loss: Tensor


class ByCriterion(BarlowTwins):
    """Whatever loss of two projections ``criterion`` is; ``lambd`` has no meaning here."""

    criterion: nn.Module

    def loss(self, z_a: Tensor, z_b: Tensor) -> OneTerm:
        """The criterion, whole."""
        return OneTerm(self.criterion(z_a, z_b))


class SimCLR(ByCriterion):
    """Chen et al., ICML 2020.

    Args:
        temperature: Of the softmax over similarities.
        options: Of the recipe.
    """

    def __init__(self, temperature: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.criterion = NTXentLoss(temperature)


class VICReg(ByCriterion):
    """Bardes et al., ICLR 2022.

    Args:
        covariance: Weight of the covariance term; invariance and variance have 25 each.
        options: Of the recipe.
    """

    def __init__(self, covariance: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.criterion = VICRegLoss(nu_param=covariance)
