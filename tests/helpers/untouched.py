"""All that a training could have been changed in, to the last bit."""

import random

import numpy as np
import torch


def seed():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def everything(trainer, module):
    """All that the training could have been changed in, as comparable values."""
    optimizer = trainer.optimizers[0].state_dict()["state"]
    moments = [value for state in optimizer.values() for value in state.values()]
    numpy_state = torch.as_tensor(np.random.get_state()[1].astype(np.int64))
    python_state = torch.tensor(random.getstate()[1])
    weights = list(module.state_dict().values())  # BatchNorm statistics included
    return [*weights, *moments, torch.get_rng_state(), numpy_state, python_state]


def assert_identical(first, second):
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
