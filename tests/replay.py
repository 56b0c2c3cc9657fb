"""A graph for the CPU: records the operations of some work without doing it, and does them again, as CUDA graphs do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

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
