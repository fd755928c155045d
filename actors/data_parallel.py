"""Several workers that train one model as one: each takes its share of every batch, and all take the same step.

Every worker draws the same batches from the same seed, so no data travels: it computes on its rows, and the gradients
are added up in one flat bucket. A share's loss counts by its part of the batch's weight, so the sum is the gradient of
the whole batch, up to the order of additions. Gloo carries it between CPUs, NCCL between GPUs of their own. The process
group stands only while ``joined`` lasts: vLLM, which may sample in the same process afterwards, wants one to itself.
Not here: who starts the workers (``cluster.train_job``), and sharing out evaluation and policy steps, which the first
worker does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from policies.losses import AnchoredLoss

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Peers:
    """One worker among those of a job.

    Args:
        rank: its number, from 0; the first one saves, evaluates and reports.
        size: workers in all; 1 needs nobody and waits for nobody.
        meeting: a file that does not exist yet in a directory that all of them see; through it they find each other.
        backend: gloo, or nccl where each worker has a GPU of its own.
    """

    rank: int = 0
    size: int = 1
    meeting: str = ""
    backend: str = "gloo"

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be connected with the others while the block runs; blocks until all are there."""
        if self.size == 1:
            yield
            return
        where = f"file://{self.meeting}"
        dist.init_process_group(self.backend, init_method=where, rank=self.rank, world_size=self.size)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def share(self, batch: Sequence[T]) -> list[T]:
        """This worker's rows of a batch: every ``size``-th, so that shares of rows sorted by length cost alike."""
        return list(batch[self.rank :: self.size])

    def add_up(self, model: nn.Module, loss: AnchoredLoss) -> AnchoredLoss:
        """Replace the gradients of ``model`` and the scalars of ``loss`` by their sums over all workers."""
        if self.size == 1:
            return loss
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        scalars = torch.stack([part.detach() for part in loss])
        bucket = torch.cat([gradient.flatten() for gradient in gradients] + [scalars])
        dist.all_reduce(bucket)
        *summed, scalars = bucket.split([p.numel() for p in trained] + [len(scalars)])
        for parameter, gradient in zip(trained, summed, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return AnchoredLoss(*scalars)

    def told(self, make: Callable[[], T]) -> T:
        """What the first worker makes, for all: it is made once, and nobody's differs."""
        if self.size == 1:
            return make()
        box: list[T | None] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(box, 0)
        return cast(T, box[0])

    def agreed(self, seconds: float) -> float:
        """The first worker's figure: clocks differ, and what follows from one must be the same for all."""
        if self.size == 1:
            return seconds
        told = torch.tensor([seconds], dtype=torch.float64, device="cuda" if self.backend == "nccl" else "cpu")
        dist.broadcast(told, 0)
        return float(told.item())


ALONE = Peers()
