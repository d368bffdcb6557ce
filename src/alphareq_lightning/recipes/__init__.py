"""A Barlow Twins recipe to train with; it works without the rest of this package."""

from alphareq_lightning.load.architectures import build_backbone
from alphareq_lightning.load.narrow_resnet import NarrowResNet
from alphareq_lightning.recipes.barlow_twins import (
    BarlowTwins,
    BarlowTwinsLoss,
    barlow_twins_loss,
)
from alphareq_lightning.recipes.datamodules import (
    CIFAR10DataModule,
    DigitsDataModule,
    ImageFolderDataModule,
    STL10DataModule,
)
from alphareq_lightning.recipes.views import TwoViews, barlow_twins_view, plain_view

__all__ = [
    "BarlowTwins",
    "BarlowTwinsLoss",
    "CIFAR10DataModule",
    "DigitsDataModule",
    "ImageFolderDataModule",
    "NarrowResNet",
    "STL10DataModule",
    "TwoViews",
    "barlow_twins_loss",
    "barlow_twins_view",
    "build_backbone",
    "plain_view",
]
