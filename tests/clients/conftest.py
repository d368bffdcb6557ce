"""A Trainer of either namespace, and features that the test hooks itself."""

import importlib

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from alphareq_lightning import AlphaMonitor

import oracles

RELATIVE = 2e-6
"""Features are float32, and so are their means over positions; the rest is float64."""


def pictures(n=96, size=32, seed=0):
    """Colours that differ in strength, so that spectra are not flat."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator) * torch.rand(
        n, 1, size, 1, generator=generator
    )


class Hooked:
    """What a layer gives in eval mode outside of the sanity check, by a hook of the test's own."""

    def __init__(self, module, label):
        name, _, taken = label.partition(":")
        self.root, self.taken, self.outputs = module, taken, []
        module.get_submodule(name).register_forward_hook(self.hook, with_kwargs=True)

    def hook(self, module, args, kwargs, output):
        value = (args[0] if args else next(iter(kwargs.values()))) if self.taken else output
        if not self.root.training and not self.root.trainer.sanity_checking:
            self.outputs.append(value)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def namespace(request):
    return importlib.import_module(request.param)


@pytest.fixture
def conforms(tmp_path):
    """Measure a module's own validation, and compare α with numpy on the hooked features."""

    def check(module, loader, label, features, namespace=None, **options):
        namespace = namespace or importlib.import_module("lightning.pytorch")
        monitor = AlphaMonitor(figures=False, **options)
        hooked = Hooked(module, label)
        trainer = namespace.Trainer(
            accelerator="cpu",
            devices=1,
            default_root_dir=tmp_path,
            callbacks=[monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.validate(module, loader, verbose=False)
        [record] = monitor.history
        assert record.layer == label
        assert record.problem is None
        expected = np.concatenate([features(out).double().numpy() for out in hooked.outputs])
        assert (record.num_samples, record.num_features) == expected.shape
        alpha, _, _ = oracles.weighted_line(oracles.eigenspectrum(expected), *record.fit_range)
        assert record.alpha == pytest.approx(alpha, rel=RELATIVE)

    return check


@pytest.fixture
def loader():
    images = pictures()
    labels = torch.arange(len(images)) % 10
    return DataLoader(list(zip(images, labels, strict=True)), batch_size=40)
