"""Batches in one place: what is recorded reads its batch where that of the first recording lay."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from distill.batch import Batch, changed


class BatchReader(Protocol):
    """Steps that read batches; see cuda_graphs.GraphedStep."""

    def join(self) -> None:
        """Let the device's current stream wait for the steps."""


class StaticBuffers:
    """Batches of one shape in one place: their tensors are copied to where the first one's were, once the steps of all
    `readers` are done there.
    """

    def __init__(self) -> None:
        self.readers: WeakSet[BatchReader] = WeakSet()
        self._batches: dict[Any, Batch] = {}
        self._inputs: set[int] = set()  # ids of the inputs that lie here

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with tensors that every batch of its shape shares; those that lie here already stay."""
        shape = layout_of(batch)
        place = self._batches.get(shape)
        if place is None:
            place = self._batches[shape] = batch if batch in self else changed(batch, torch.clone)
            self._inputs.add(id(place.inputs))
        pairs = zip(tensors(place).values(), tensors(batch).values(), strict=True)
        if written := [pair for pair in pairs if pair[0] is not pair[1]]:
            for reader in self.readers:
                reader.join()
        for kept, tensor in written:
            kept.copy_(tensor, non_blocking=True)
        return replace(place, views=dict(place.views))

    def __contains__(self, batch: Batch) -> bool:
        """Whether the inputs of a batch lie here."""
        return id(batch.inputs) in self._inputs


def tensors(record: Any) -> dict[str, Tensor]:
    """The tensors that a batch brings, by name."""
    if isinstance(record, Tensor):
        return {"": record}
    items = record.items() if isinstance(record, dict) else [(f.name, getattr(record, f.name)) for f in fields(record)]
    return {
        f"{name}.{inner}".rstrip("."): tensor
        for name, value in items
        if isinstance(value, Tensor | dict) or is_dataclass(value)
        for inner, tensor in tensors(value).items()
    }


def layout_of(batch: Batch) -> Any:
    """What batches have in common that one graph can serve."""
    return tuple((name, tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in tensors(batch).items())
