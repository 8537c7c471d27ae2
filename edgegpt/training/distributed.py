"""The processes of a training run: this one's rank, and sums over all of them.

Under `torchrun` the environment gives this process's rank; otherwise there is one process.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes", "processes"]


@dataclass(frozen=True)
class Processes:
    """This process's rank among the processes of the run, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def first_different(self, facts: Any) -> int | None:
        """Return the lowest rank whose `facts`, which JSON can have, are not those of rank 0."""
        if self.world == 1:
            return None
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
        own = torch.tensor(list(digest), dtype=torch.uint8, device=self.device)  # (32,)
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own)
        return next((r for r, other in enumerate(found) if not other.equal(found[0])), None)

    def wait(self) -> None:
        """Wait for this process's device, whose work goes on after a call has returned."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the process group that torchrun describes, if any; leave it on exit."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    has_cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if has_cuda else "cpu"
    device = torch.device(device)
    if has_cuda:
        torch.cuda.set_device(device)
    if world == 1:
        yield Processes(0, 1, device)
        return
    dist.init_process_group("nccl" if has_cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()
