"""One process or several (torchrun): who is who, sums over all, what rank 0 tells the others."""

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
"""How long a process waits for the others, which may have longer validation takes."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: number of this process, 0 .. world - 1; rank 0 writes and shows.
        world: number of processes.
        device: where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes; every process must ask for it."""
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
    """Join the other processes that torchrun started; without torchrun this is the only one.

    Args:
        device: auto, cpu or cuda; with cuda each process of a machine takes a GPU of its own.

    Raises:
        InputError: no such device, or fewer GPUs than processes on this machine.
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
    # Objects travel over the CPU, gradients between GPUs.
    backend = "cpu:gloo,cuda:nccl" if resolved.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), resolved)
    finally:
        dist.destroy_process_group()
