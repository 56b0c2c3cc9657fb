"""What a step does that makes a GPU wait, noted while it runs on the CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill.engine.trace import WAITS, counts_places


class WaitingOperations(TorchDispatchMode):
    """Notes operations that wait on a GPU; what the step itself draws or counts on the host may be read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.host: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_host = all(id(tensor) in self.host for tensor in tensors)
        by_mask = " by a mask" * counts_places(func, args)
        if not on_host and (func._schema.name in WAITS or by_mask):
            self.found.add(f"{func._schema.name.removeprefix('aten::')}{by_mask}")
        result = func(*args, **kwargs)
        if on_host:
            self.host |= {id(value): value for value in tree_leaves(result) if isinstance(value, Tensor)}
        return result


class Copies(TorchFunctionMode):
    """Notes values that are copied to the host, which on a CPU are there already and take no operation."""

    def __init__(self, seen: WaitingOperations) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__) and id(args[0]) not in self.seen.host:
            self.seen.found.add(f".{func.__name__}()")
        return func(*args, **(kwargs or {}))
