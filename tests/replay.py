"""A graph for the CPU: records the operations of some work without doing it, and does them again, as CUDA graphs do.

With `streams`, the lines around a step on a stream of its own run on the CPU too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Replay(TorchDispatchMode):
    """No Python runs in a replay: the recorded operations read and write the recorded tensors, wherever they lie."""

    def __init__(self, stream: Any = None) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def capture(self, work: Callable[[], Any]) -> Any:
        rng = torch.get_rng_state()
        with self:
            result = work()
        for tensor, content in self._before.values():  # recorded, not done
            tensor.untyped_storage().copy_(content.untyped_storage())
        torch.set_rng_state(rng)
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors((args, kwargs)):
            place = tensor.untyped_storage().data_ptr()
            if place and place not in self._made and place not in self._before:
                copy = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage().clone())
                self._before[place] = (tensor.detach(), copy)
        here = frozen((args, kwargs))
        result = func(*args, **kwargs)
        fresh = not any(out.alias_info for out in func._schema.returns)
        if fresh:
            self._made |= {tensor.untyped_storage().data_ptr() for tensor in tensors(result)}
        if not func._schema.name.startswith("profiler::"):
            self.operations.append((func, here[0], here[1], frozen(result) if fresh else None))
        return result

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd(), torch.autocast("cpu", enabled=False):
            for func, args, kwargs, kept in self.operations:
                if torch.Tag.inplace_view in func.tags:
                    args = frozen(args)
                again = func(*args, **kwargs)
                for old, new in zip(tensors(kept), tensors(again), strict=False):
                    old.copy_(new)


def frozen(value: Any) -> Any:
    """The same with other tensors on the same memory, whose shapes no operation in place (as_strided_) changes."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return type(value)(frozen(item) for item in value) if type(value) in (list, tuple) else value


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


class Stream:
    """A queue of work that runs at once: what would be read before its writer is waited for is an AssertionError."""

    current: Stream

    def __init__(self, device: Any = None) -> None:
        self.done, self.known = 0, dict[int, int]()  # work of its own; how much of others' it comes after

    def wait_stream(self, other: Stream) -> None:
        self.known |= {key: max(count, self.known.get(key, 0)) for key, count in other.known.items()}
        self.known[id(other)] = other.done

    @contextmanager
    def entered(self) -> Iterator[None]:
        before, Stream.current = Stream.current, self
        try:
            assert self.known.get(id(before), 0) == before.done, "a step reads what another stream may still write"
            self.done += 1
            yield
        finally:
            Stream.current = before
            before.done += 1


Stream.current = Stream()


@contextmanager
def streams() -> Iterator[None]:
    """Give steps that are recorded, and evaluations beside them, streams on the CPU as on a GPU, and its generator to
    steps that draw.
    """
    from distill.engine import beside
    from distill.engine.cuda_graphs import GraphedStep

    begin = GraphedStep.__init__

    def with_stream(self: GraphedStep, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        self.stream = Stream()  # type: ignore[assignment]

    with (
        patch.object(GraphedStep, "__init__", with_stream),
        patch.object(beside, "side_stream", lambda device: Stream()),
        patch.object(torch.cuda, "current_stream", lambda device=None: Stream.current),
        patch.object(torch.cuda, "stream", Stream.entered),
        patch.object(torch.cuda, "get_rng_state", lambda device=None: torch.get_rng_state()),
        patch.object(Tensor, "record_stream", lambda tensor, stream: None),
    ):
        yield
