"""One run on several devices: `torchrun --nproc-per-node=2 -m distill ...` starts a process a device.

Every process builds the same nets and takes its part of every batch; gradients are averaged over the whole batch in the
backward pass (engine/replicas.py), and BatchNorms take their statistics from all of it (engine/synced.py). So losses
that are means over samples are those of one process. Losses that relate the samples of a batch to each other (SP, RKD,
PKT, CC, DIST's intra-class term, ...) relate those of each part. Memory banks are kept equal: `gathered` brings the
entries of all parts to every process. The first process alone writes files. All of this does nothing in a run of one
process.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import distill.torchrun as torchrun
from distill.batch import Batch, Source
from distill.runtime import pick_device

PATIENCE = timedelta(days=30)
"""Of a `barrier`: the first process may wait there for another's lock, or measure features and teachers at the end;
torch gives up after ten minutes, or half an hour."""


def world() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; 0 writes."""
    return dist.get_rank() if world() > 1 else 0


def start(device: str) -> str:
    """Join the processes that torchrun has started, if it has, and return this one's device name.

    Raises ValueError where they cannot have the device that is asked for.
    """
    if torchrun.processes() < 2:
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = _on_gpus(device, local)
    if not dist.is_initialized():
        if cuda:
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if cuda else "gloo")
        _Waiting.group, _Waiting.gpus = dist.new_group(timeout=PATIENCE), [local] if cuda else None
        barrier()  # NCCL connects a group at its first use, for which nobody waits longer than for any exchange
        atexit.register(_leave)
        if dist.get_rank() > 0:  # what one has said need not be said by all
            logging.getLogger("distill").setLevel(logging.WARNING)
    return f"cuda:{local}" if cuda else "cpu"


def _on_gpus(device: str, local: int) -> bool:
    """Whether the processes take a GPU each; `local` is this one's number on its machine."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={device}: torchrun's processes have a device each: use auto, cpu or cuda.")
    cuda = pick_device(device).type == "cuda"
    if cuda and local >= (count := torch.cuda.device_count()):
        raise ValueError(f"torchrun has started more processes than there are GPUs here: --nproc-per-node={count}, "
                         "or device=cpu.")  # fmt: skip
    return cuda


def _leave() -> None:
    """Close the connections while Python is whole: gloo's threads may end a finished run with an abort otherwise."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Waiting:
    """The processes as those that wait for each other at barriers."""

    group: Any = None
    gpus: list[int] | None = None  # this process's, where exchanges take place on GPUs


def barrier() -> None:
    """Wait for all processes, however long one of them takes."""
    if world() > 1:
        dist.barrier(group=_Waiting.group, device_ids=_Waiting.gpus)


class _BatchShare:
    """How many samples the batch has that the processes work on: all parts together, and this process's."""

    whole = own = 1


class PartSource:
    """Each process's part of every batch of a source: samples rank, rank + world, ... of the batch.

    A source that can (`of_part`) reads those alone; of others whole batches are cut.
    """

    def __init__(self, source: Source) -> None:
        of_part = getattr(type(source), "of_part", None)  # its own: what it hands on of another is not of its batches
        own = of_part(source, rank(), world()) if of_part else None
        self.source: Any = source if own is None else own
        self.steps, self._cuts = source.steps, own is None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's parts of an epoch's batches, from step `start` on."""
        for step, batch in enumerate(self.source.epoch(epoch, start), start):
            whole = len(batch) if self._cuts else self.source.whole_size(step)
            cut = part(batch, rank(), world()) if self._cuts else batch
            _BatchShare.whole, _BatchShare.own = whole, len(cut)
            yield cut

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def part(batch: Batch, number: int, count: int) -> Batch:
    """Return every `count`-th sample from `number` on.

    Raises ValueError for a batch with fewer samples than processes.
    """
    total = len(batch)
    if total < count:
        raise ValueError(f"a batch of {total} images cannot be shared by {count} processes: raise schedule.batch_size.")
    return batch.only(slice(number, None, count))


def whole_size(batch: Batch) -> int:
    """Return how many samples the batch has that all processes work on, of which this is a part."""
    return len(batch) if world() == 1 else _BatchShare.whole


def smallest_part() -> int:
    """Return how many samples of the batch every process has at least."""
    return _BatchShare.whole // world()


def weighed(loss: Tensor) -> Tensor:
    """Weigh the loss of this process's part so that the mean over the processes is the whole batch's."""
    weight = _BatchShare.own * world() / _BatchShare.whole
    return loss if weight == 1 else loss * weight


def gathered(tensor: Tensor) -> Tensor:
    """Return the rows [B,...], one a sample, of all parts of a batch, without gradients, in the processes' order.

    How many each brings follows from the batch's size, so that nobody has to be asked. Raises ValueError for rows of
    something else.
    """
    if world() == 1:
        return tensor
    sizes = [len(range(number, _BatchShare.whole, world())) for number in range(world())]
    if len(tensor) != sizes[rank()]:
        raise ValueError(f"{len(tensor)} rows are gathered in place of the {sizes[rank()]} of this part of the batch.")
    padded = torch.cat([tensor, tensor.new_zeros((sizes[0] - len(tensor), *tensor.shape[1:]))])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded.contiguous())
    return torch.cat([rows[:size] for rows, size in zip(parts, sizes, strict=True)])


def mean(value: Tensor) -> Tensor:
    """Return the mean of a detached scalar over the processes."""
    return value if world() == 1 else summed(value) / world()


def summed(value: Tensor) -> Tensor:
    """Return the sum of a detached tensor over the processes."""
    if world() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def total(values: list[float]) -> list[float]:
    """Return each number summed over the processes."""
    if world() == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(sums)
    return sums.tolist()


def _device() -> str:
    """Where the numbers lie that processes exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def different_buffers(module: nn.Module) -> list[str]:
    """The names of buffers that add up to something else on some process; not of norms, whose running statistics may be
    each process's own.
    """
    norms = {part for part in module.modules() if any("Norm" in kind.__name__ for kind in type(part).__mro__)}
    parts = ((path, part) for path, part in module.named_modules() if part not in norms)
    found = ((path, name, value) for path, part in parts for name, value in part.named_buffers(recurse=False))
    held = {f"{path}.{name}".strip("."): value for path, name, value in found}
    if world() == 1 or not held:
        return []
    sums = torch.stack([value.sum(dtype=torch.float64).nan_to_num() for value in held.values()])
    all_sums = [torch.empty_like(sums) for _ in range(world())]
    dist.all_gather(all_sums, sums)
    apart = (torch.stack(all_sums) != all_sums[0]).any(0).tolist()
    return [name for name, differs in zip(held, apart, strict=True) if differs]


def same_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers: running statistics, averages."""
    if world() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def gathered_on_first(record: Any) -> list[Any]:
    """Return what every process hands in, for the first; of the others each sees its own alone."""
    if rank() > 0:
        dist.gather_object(record)
        return [record]
    found: list[Any] = [None] * world()
    dist.gather_object(record, found)
    return found


def agreed(*numbers: float) -> list[int]:
    """Return the largest of each whole number that any process brings: signals, so that all stop at the same step."""
    if world() == 1:
        return [int(number) for number in numbers]
    largest = torch.tensor([int(number) for number in numbers], device=_device())
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.tolist()
