"""A rank that runs out of memory in the middle of a sync: no other rank may wait for it."""

import pytest
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from alphareq_lightning import SpectrumError, StreamingMoments
from alphareq_lightning.metrics import FeatureSample, SelfCluster

from ranks import spawn

WIDTH = 32


class OutOfMemoryAt(TorchFunctionMode):
    """Raises in place of the ``k``-th operation that gives a tensor of some size."""

    def __init__(self, k):
        super().__init__()
        self.k, self.failed = k, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # A number or two will be had; in-place operations take no memory.
        if isinstance(result, torch.Tensor) and result.numel() >= WIDTH and result._base is None:
            self.k -= 1
            if self.k == -1:
                self.failed = True
                raise torch.OutOfMemoryError("CUDA out of memory")
        return result


def flat(found):
    return torch.cat([torch.as_tensor(part).flatten() for part in found])


def fails_everywhere(rank, world_size, make):
    metric = make()
    metric.update(torch.randn(40 + rank, WIDTH, generator=torch.Generator().manual_seed(rank)))
    expected = flat(metric.reduced())
    places = 0
    while True:
        outcome = "whole"
        with OutOfMemoryAt(places if rank == 1 else 10**9) as memory:
            try:
                metric.reduced()
            except (SpectrumError, torch.OutOfMemoryError) as error:
                outcome = str(error)
        failed = torch.tensor(int(memory.failed))
        dist.all_reduce(failed)  # a rank that still waits in the sync would get this number
        if not failed:
            break
        assert (outcome != "whole") or rank == 0  # after the last collective it fails alone
        assert rank == 1 or outcome in ("whole", "1 other ranks failed in the sum over ranks")
        again = flat(metric.reduced())
        assert torch.equal(again, expected), (places, outcome, (again - expected).abs().max())
        places += 1
    assert places >= 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "make",
    [
        StreamingMoments,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (SelfCluster, FeatureSample)),
    ],
)
def test_a_rank_out_of_memory_lets_no_other_wait(make):
    spawn(fails_everywhere, 2, make)
