"""What all ranks must decide together, so that none raises or stops alone."""

from __future__ import annotations

import torch
import torch.distributed as dist


class OneProcess:
    """Measures alone: the default, also where a process group is alive."""

    rank, world_size = 0, 1

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; every rank must call it."""
        return flag

    def agree(self, num_images: int, problem: str | None) -> tuple[int, str | None]:
        """Images over all ranks, and the problem of one that has any, in its words."""
        return num_images, problem


class AllProcesses(OneProcess):
    """Measures with all ranks of the default process group, which gives all of them the same.

    Args:
        device: Where the process group can reduce numbers.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; every rank must call it."""
        total = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(total)
        return bool(total)

    def agree(self, num_images: int, problem: str | None) -> tuple[int, str | None]:
        """Images over all ranks, and the problem of one that has any; every rank must call it."""
        mine = torch.tensor([num_images, problem is not None], device=self.device)
        found = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(found, mine)
        with_problem = [rank for rank, (_, has_one) in enumerate(found) if has_one]
        if with_problem:
            said = [problem]
            dist.broadcast_object_list(said, src=with_problem[0])
            [problem] = said
        return sum(int(images) for images, _ in found), problem


def own_share(num_images: int, rank: int, world_size: int) -> int:
    """How many of the first images are this rank's, if they are dealt out one by one.

    Example:
        >>> [own_share(201, rank, 2) for rank in (0, 1)]
        [101, 100]
    """
    return len(range(rank, num_images, world_size))
