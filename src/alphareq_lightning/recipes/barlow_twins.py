"""Barlow Twins: the loss, and a LightningModule that trains with it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from alphareq_lightning.errors import OptionError
from alphareq_lightning.functional.two_views import VARIANCE_EPSILON
from alphareq_lightning.load.architectures import build_backbone
from alphareq_lightning.metrics.views import TwinsError

WARMUP_START = 0.01
"""Share of the learning rate that the first step gets."""


class BarlowTwinsLoss(NamedTuple):
    """The loss and its two terms, each of shape ``()``."""

    loss: Tensor
    """``invariance + lambd * redundancy``."""
    invariance: Tensor
    """``Σ (1 − C_ii)²``: do the two views agree?"""
    redundancy: Tensor
    """``Σ_{i≠j} C_ij²``, before λ: do the dimensions repeat each other?"""


def barlow_twins_loss(z_a: Tensor, z_b: Tensor, lambd: float = 5e-3) -> BarlowTwinsLoss:
    """Barlow Twins loss of the projections of two views.

    Each view is standardised on its batch; ``C = Z_aᵀ Z_b / n``. Under several ranks each rank
    uses its own batch.

    Args:
        z_a: Projections of the first view, shape ``(n, p)``.
        z_b: Projections of the second view, shape ``(n, p)``.
        lambd: Weight λ of the redundancy term.

    Raises:
        OptionError: If the two shapes differ, or there are fewer than two samples.

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> [round(term.item(), 6) for term in barlow_twins_loss(z, z)]
        [0.0, 0.0, 0.0]

    References:
        Zbontar et al., "Barlow Twins: Self-supervised learning via redundancy reduction",
        ICML 2021.
    """
    if z_a.ndim != 2 or z_a.shape != z_b.shape or len(z_a) < 2:
        raise OptionError(
            "expected two matrices of projections of one shape (n, p) with n >= 2, "
            f"got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    with torch.autocast(z_a.device.type, enabled=False):
        cross = _standardise(z_a).T @ _standardise(z_b) / len(z_a)
        diagonal = cross.diagonal()
        invariance = (1 - diagonal).square().sum()
        redundancy = cross.square().sum() - diagonal.square().sum()
    return BarlowTwinsLoss(invariance + lambd * redundancy, invariance, redundancy)


def _standardise(z: Tensor) -> Tensor:
    z = z if z.dtype == torch.float64 else z.float()
    z = z - z.mean(dim=0)
    # Again: the rounding of a large mean would make a constant feature correlate perfectly.
    z = z - z.mean(dim=0)
    # The epsilon keeps the gradient of a constant projection finite.
    return z / (z.square().mean(dim=0) + VARIANCE_EPSILON).sqrt()


class BarlowTwins(pl.LightningModule):
    """Trains a backbone without labels; a batch is ``(view_a, view_b)``.

    Logs ``train_loss`` at every epoch, and ``val_loss``, ``val_invariance``, ``val_redundancy``
    and ``val_twins_error`` at every validation. The losses of two λ or two projectors cannot be
    compared, the error can, see `twins_error`.

    Args:
        backbone: ``"narrow_resnet"``, the name of a torchvision model, or a module that returns
            ``(n, d)`` features and has ``num_features``.
        backbone_options: Passed to a backbone that is given by name.
        small_images: 3×3 stem without max-pool for torchvision's ResNets.
        projector_dim: Width of the projector, hidden and output.
        projector_layers: Linear layers of the projector: 2 as in the α-ReQ case study, 3 as in
            the Barlow Twins paper.
        lambd: Weight λ of the redundancy term; the best λ shrinks as the projector widens.
        optimizer: ``"adamw"``, or ``"lars"`` (from timm) for large batches.
        learning_rate: Peak learning rate, reached after the warm-up.
        weight_decay: Not applied to biases and norms.
        warmup_epochs: Epochs of linear warm-up.
        decay_share: Share of the steps after the warm-up, the last ones, in which the learning
            rate falls to 0 along a cosine; before them it stays at its peak.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "narrow_resnet",
        *,
        backbone_options: dict[str, Any] | None = None,
        small_images: bool = True,
        projector_dim: int = 128,
        projector_layers: int = 2,
        lambd: float = 0.04,
        optimizer: Literal["adamw", "lars"] = "adamw",
        learning_rate: float = 5e-3,
        weight_decay: float = 1e-6,
        warmup_epochs: float = 0.0,
        decay_share: float = 1.0,
    ) -> None:
        super().__init__()
        if optimizer not in ("adamw", "lars"):
            raise OptionError(f"expected optimizer 'adamw' or 'lars', got {optimizer!r}")
        if projector_layers < 1 or projector_dim < 1:
            raise OptionError(
                f"expected a projector of positive size, got {projector_layers=}, {projector_dim=}"
            )
        if not 0 < decay_share <= 1:
            raise OptionError(f"expected a share 0 < decay_share <= 1, got {decay_share=}")
        # A module given as such cannot be rebuilt from hyperparameters.
        self.save_hyperparameters(ignore=[] if isinstance(backbone, str) else ["backbone"])
        if isinstance(backbone, str):
            options = backbone_options or {}
            self.backbone, width = build_backbone(backbone, small_images=small_images, **options)
        else:
            self.backbone, width = backbone, _num_features(backbone)
        self.projector = _projector(width, projector_dim, projector_layers)
        self.lambd = lambd
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.decay_share = decay_share
        self.twins_error = TwinsError()

    def forward(self, images: Tensor) -> Tensor:
        """Backbone features, shape ``(n, d)``: what downstream tasks use."""
        features: Tensor = self.backbone(images)
        return features

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one pair of views."""
        loss: Tensor = self.loss(*self._projections(batch)).loss
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=len(batch[0]),
            sync_dist=True,
        )
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The same on held-out images."""
        z_a, z_b = self._projections(batch)
        values = {f"val_{name}": value for name, value in self.loss(z_a, z_b)._asdict().items()}
        self.log_dict(values, batch_size=len(batch[0]), sync_dist=True)
        self.twins_error.update(z_a, z_b)
        self.log("val_twins_error", self.twins_error)

    def loss(self, z_a: Tensor, z_b: Tensor) -> Any:
        """The loss of the projections of two views, with its terms; override it for another."""
        return barlow_twins_loss(z_a, z_b, self.lambd)

    def _projections(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        view_a, view_b = batch
        return self.projector(self(view_a)), self.projector(self(view_b))

    def configure_optimizers(self) -> Any:
        """AdamW or LARS, with linear warm-up and cosine decay at every step."""
        optimizer = self._optimizer()
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise OptionError("the cosine decay needs an end: set max_epochs or max_steps")
        total = int(total)
        self.trainer.fit_loop.setup_data()  # with max_steps Lightning has not counted the batches
        steps_per_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup = int(min(self.warmup_epochs * steps_per_epoch, total - 1))
        # A lambda is not stored in checkpoints: a resumed run follows its own, new length.
        share = partial(
            learning_rate_share, warmup=warmup, total=total, decay_share=self.decay_share
        )
        schedule = {"scheduler": LambdaLR(optimizer, share), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _optimizer(self) -> torch.optim.Optimizer:
        # Biases and the scales of norms have one dimension; decaying them only hurts.
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.learning_rate)
        try:
            from timm.optim.lars import Lars
        except ImportError as error:
            raise OptionError(
                "optimizer='lars' needs timm: pip install 'alphareq-lightning[timm]'"
            ) from error
        lars: torch.optim.Optimizer = Lars(groups, lr=self.learning_rate, momentum=0.9)
        return lars


def learning_rate_share(step: int, *, warmup: int, total: int, decay_share: float = 1.0) -> float:
    """Share of the peak learning rate: a linear rise over ``warmup`` steps, then a cosine to 0.

    The cosine takes the last ``decay_share`` of the steps after the warm-up.

    Example:
        >>> [round(learning_rate_share(step, warmup=2, total=6), 3) for step in range(7)]
        [0.01, 0.505, 1.0, 0.854, 0.5, 0.146, 0.0]
        >>> [learning_rate_share(s, warmup=0, total=8, decay_share=0.25) for s in range(5, 9)]
        [1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return WARMUP_START + (1 - WARMUP_START) * step / warmup
    start = warmup + (1 - decay_share) * (total - warmup)
    progress = min(1.0, max(0.0, step - start) / max(1, total - start))
    return (1 + math.cos(math.pi * progress)) / 2


def _projector(width: int, dim: int, num_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(width, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)]
        width = dim
    return nn.Sequential(*layers, nn.Linear(width, dim, bias=num_layers == 2))


def _num_features(backbone: nn.Module) -> int:
    width = getattr(backbone, "num_features", None)
    if isinstance(width, int):
        return width
    raise OptionError(
        f"a backbone given as a module must say its width as an integer num_features; "
        f"{type(backbone).__name__} does not"
    )
