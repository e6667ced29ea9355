"""One or several training processes (torchrun): ranks, sums, gathering and broadcasting."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lmeec_core.checkpoint import resolve_device
from lmeec_core.errors import InputError

PATIENCE = datetime.timedelta(hours=1)
"""How long a process waits for the others, whose validation takes may be longer."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: number of this process, 0 .. world - 1; rank 0 writes files and shows progress.
        world: number of processes.
        device: where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes; every process must call this."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every process's value (anything that can be pickled), by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, in every process; tensors in it are on the CPU."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the other processes started by torchrun; without torchrun there is only this one.

    Args:
        device: auto, cpu or cuda; with cuda each process on a machine uses its own GPU.

    Raises:
        InputError: there is no such device, or the machine has fewer GPUs than processes.
    """
    resolved = resolve_device(device)
    if "WORLD_SIZE" not in os.environ or "LOCAL_RANK" not in os.environ:
        yield Processes(0, 1, resolved)
        return
    if resolved.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise InputError(
                f"torchrun started process {local + 1} of this machine, which has {gpus} GPUs; "
                f"give --nproc-per-node {gpus} at most"
            )
        resolved = torch.device("cuda", local)
        torch.cuda.set_device(resolved)
    # Python objects are exchanged over the CPU, gradients between GPUs.
    backend = "cpu:gloo,cuda:nccl" if resolved.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), resolved)
    finally:
        dist.destroy_process_group()
