"""What a training step does: which operations on which tensors, and what it changes outside of them.

A CUDA graph repeats the operations of one step on the memory of that step and runs no Python. That is the same as
running the step only if every step asks for the same operations with the same numbers on the same memory, and leaves
nothing behind in Python. `traced` runs a step and tells both.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from distill.config.own_code import is_own

WAITS = {  # their CUDA kernels make the host wait; a capture that fails on one leaves the generator unusable
    "aten::_linalg_check_errors", "aten::_linalg_eigh", "aten::_linalg_eigvals", "aten::_linalg_svd",
    "aten::_local_scalar_dense", "aten::_unique", "aten::_unique2", "aten::bincount", "aten::equal", "aten::histc",
    "aten::linalg_eig", "aten::linalg_lstsq", "aten::masked_select", "aten::mode", "aten::multinomial", "aten::nonzero",
    "aten::repeat_interleave", "aten::unique_consecutive", "aten::unique_dim",
}  # fmt: skip
_COPIES = {"aten::_to_copy", "aten::copy_"}
_PLAIN = frozenset({type(None), bool, int, float, str})
_MAPPINGS = frozenset({dict, OrderedDict})
_tracing = 0


def tracing() -> bool:
    """Whether a step is being traced; compiled nets, whose operations cannot be seen, then run eagerly."""
    return _tracing > 0


class _Trace(TorchDispatchMode):
    """The operations that pass by, as comparable values.

    A tensor made since the start is known by the operation that made it, any other by its place in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.waits: list[str] = []  # what of it ties the device to the host
        self._made: dict[int, int] = {}

    def __enter__(self) -> _Trace:
        global _tracing
        _tracing += 1
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        global _tracing
        _tracing -= 1
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = args[0].item() if _is_number(func, args) else self._known((args, kwargs))
        result = func(*args, **kwargs)
        if func._schema.name in WAITS:
            self.waits.append(f"{func._schema.name} waits for the device")
        elif counts_places(func, args):
            self.waits.append(f"{func._schema.name} counts the places of a mask, for which it waits for the device")
        elif _is_transfer(func, args, result):
            self.waits.append(f"{func._schema.name} copies between host and device")
        number = len(self.operations)
        self.operations.append((str(func), asked))
        fresh = not any(out.alias_info for out in func._schema.returns) or _is_number(func, args)
        if fresh:  # views and outputs in place lie in known memory
            for tensor in _tensors(result):
                self._made[tensor.untyped_storage().data_ptr()] = number
        return result

    def _known(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return value
        if isinstance(value, Tensor):
            place = value.untyped_storage().data_ptr()
            where = ("made", self._made[place]) if place in self._made else ("at", place)
            return (*where, value.storage_offset(), tuple(value.shape), value.stride(), value.dtype)
        if isinstance(value, list | tuple):
            return tuple([self._known(item) for item in value])
        if isinstance(value, dict):
            return tuple([(key, self._known(item)) for key, item in value.items()])
        return value if isinstance(value, bool | int | float | str) else str(value)


def traced(step: Callable[[], Any], roots: Mapping[str, Any], device: torch.device) -> tuple[Any, _Trace, list[str]]:
    """Run `step`; return its result, its trace, and what it changed in Python: what hangs from `roots`, generators."""
    before = _host_state(roots, device)
    with _Trace() as trace:
        result = step()
    after = _host_state(roots, device)
    return result, trace, sorted(name for name in before | after if before.get(name) != after.get(name))


def _host_state(roots: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """All Python values of some objects, by their paths, and the states of the host's random generators."""
    state: dict[str, Any] = {"random": random.getstate(), "numpy.random": _numpy_state()}
    if device.type != "cpu":
        state["torch's CPU generator"] = torch.get_rng_state().tolist()
    for name, root in roots.items():
        _note(root, name, set(), state)
    return state


def _numpy_state() -> tuple[Any, ...]:
    kind, words, *rest = np.random.get_state()
    return kind, np.asarray(words).tobytes(), *rest


def _note(owner: Any, path: str, seen: set[int], state: dict[str, Any]) -> None:
    """Note the values of an object of this package, or of a plugin, and of all that hangs from it, by path; tensors by
    their place.
    """
    kind = type(owner)
    if kind in _PLAIN or isinstance(owner, int | float | str):  # enums and numbers of NumPy among them
        state[path] = owner
        return
    if id(owner) in seen:
        return
    seen.add(id(owner))
    if isinstance(owner, Tensor):
        state[path] = (owner.untyped_storage().data_ptr(), tuple(owner.shape))
    elif isinstance(owner, torch.Generator):
        state[path] = owner.get_state().tolist()
    elif isinstance(owner, Mapping):
        for key, value in owner.items():
            _note(value, f"{path}[{key!r}]", seen, state)
    elif isinstance(owner, list | tuple | set):
        state[path] = len(owner)
        for number, value in enumerate(owner):
            _note(value, f"{path}[{number}]", seen, state)
    elif isinstance(owner, torch.optim.Optimizer):  # its tensors are written in place; some of timm's count in Python
        for number, held in enumerate((*owner.param_groups, *owner.state.values())):
            state |= {f"{path}[{number}].{key}": value for key, value in held.items() if type(value) in _PLAIN}
    elif isinstance(owner, nn.Module) or kind.__module__.startswith("distill.") or is_own(kind.__module__):
        for name, value in getattr(owner, "__dict__", {}).items():
            if type(value) not in _MAPPINGS or value:  # a module has a dozen dictionaries of hooks, all empty
                _note(value, f"{path}.{name}", seen, state)


def _is_number(func: Any, args: Any) -> bool:
    """Whether this makes a tensor of a Python number, as torch.where(mask, tensor, 0.0) does in some versions."""
    return func._schema.name == "aten::lift_fresh" and args[0].dim() == 0 and args[0].device.type == "cpu"


def _is_transfer(func: Any, args: Any, result: Any) -> bool:
    """Whether values go from the host to the device or back; a kernel takes a single number of the host along."""
    copies = func._schema.name in _COPIES
    return len({each.device.type for each in (*_tensors(args), *_tensors(result)) if each.dim() or copies}) > 1


def counts_places(func: Any, args: Any) -> bool:
    """Whether an index is a mask, but for a number that is put where it says (which fills)."""
    name = func._schema.name
    fills = name in ("aten::index_put", "aten::index_put_") and not args[2].dim()
    if fills or name not in ("aten::index", "aten::index_put", "aten::index_put_"):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
