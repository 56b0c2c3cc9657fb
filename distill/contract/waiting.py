"""Steps on torch's meta device, whose tensors hold no values: what one does that would make a GPU wait, or fail on it.

What reads a value there, to branch, to print or to learn a size, fails by itself, at the line that does it; values
that the host has drawn may be used freely. `NoWait` adds what the meta device lets pass: tensors of the host, and
operations whose CUDA kernels wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from distill.batch import Batch
from distill.config.own_code import own_line
from distill.contract.world import World
from distill.engine import trace
from distill.method import Method, Phase

aten = torch.ops.aten
WAITING = {getattr(aten, name.removeprefix("aten::")) for name in trace.WAITS}
_MODULES = ("_parameters", "_buffers", "_modules")  # what Module.to moves
_MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class Waits(Exception):
    """A step has done what makes the host wait for the device, or what fails on one."""


class NoWait(TorchDispatchMode):
    """Refuses operations on the meta device that wait on CUDA; those `allowed` are noted in `seen` instead."""

    def __init__(self, allowed: Set[Any]) -> None:
        super().__init__()
        self.allowed, self.seen = allowed, set[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, op = kwargs or {}, func.overloadpacket
        name = func._schema.name.removeprefix("aten::")
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        host = [value for value in tensors if not value.is_meta]
        if len(host) < len(tensors):
            if op in WAITING - self.allowed:
                raise Waits(f"waits for the device: {name}")
            if any(value.dim() or op is aten.copy_ for value in host):  # single numbers go along as arguments
                raise Waits(f"takes a tensor of the host beside those of the device ({name}): make it with device=...")
            if trace.counts_places(func, args):
                raise Waits(f"waits for the device: {name} by a mask")
            self.seen |= {op} & WAITING
        elif host and op is aten._to_copy and _on_meta(kwargs) and not kwargs.get("non_blocking"):
            raise Waits(f"waits for the device: a tensor of the host is copied there ({name})")
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "meta" in str(error).lower():
                raise Waits(f"waits for the device: {name} needs values") from error
            raise


class NoHostData(TorchFunctionMode):
    """Refuses tensors that are made on the device from numbers of the host, and values that are read at once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_device = bool(args) and isinstance(args[0], Tensor) and args[0].is_meta
        if func in _MAKERS and (_on_meta(kwargs) or on_device):
            raise Waits(f"waits for the device: {func.__name__} copies numbers of the host")
        if func in (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__) and on_device:
            raise Waits(f"waits for the device: .{func.__name__}()")
        return func(*args, **kwargs)


class Answers(TorchDispatchMode):
    """Answers what a phase may ask of the device once, when it begins: yes to all."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is aten._local_scalar_dense and args[0].is_meta:
            return True
        if func.overloadpacket is aten.nonzero and args[0].is_meta:
            return torch.ones(args[0].shape).nonzero().to("meta")
        return func(*args, **(kwargs or {}))


def _on_meta(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta"


@contextmanager
def no_wait(allowed: Set[Any] = frozenset()) -> Iterator[NoWait]:
    """A block in which what waits for the meta device raises Waits."""
    with NoWait(allowed) as mode, NoHostData():
        yield mode


@contextmanager
def autocast_on_meta() -> Iterator[None]:
    """A block in which autocast takes the meta device, for which there is none."""
    kind: Any = torch.autocast
    usual = kind.__init__

    def init(self: Any, device_type: str, *args: Any, **more: Any) -> None:
        usual(self, "cpu" if device_type == "meta" else device_type, *args, **more)

    kind.__init__ = init
    try:
        yield
    finally:
        kind.__init__ = usual


def why_it_waits(world: World) -> str | None:
    """What a step does that makes a GPU wait, or fails on one; None where none does. A method may look at values once,
    in its first step.
    """
    number, phases = 0, 1
    while number < phases:
        try:
            phases = steps_on_meta(world, number, prepared=False)
        except Waits:
            try:
                phases = steps_on_meta(world, number, prepared=True)
            except Waits as error:
                return f"a step {error}{own_line(error)}"
        number += 1
    return None


def steps_on_meta(world: World, number: int, *, prepared: bool) -> int:
    """Take two steps of a phase on the meta device, from the first one's losses to the second batch and its, and return
    how many phases the method has.

    prepared: after a step on the CPU, in which a method may look at values once. Raises Waits.
    """
    method = world.method()
    made_first = {id(value) for _, _, held in _plain(method) for value in tree_leaves(held)}
    phases = method.phases()
    for phase in phases[: number + 1]:
        first = world.begun(method, phase)
    if prepared:
        _take(method, phase, first[0])
    for net in (method, *method.teachers):
        net.to("meta")
    for module, name, held in _plain(method):  # what an epoch's begin makes where the nets are
        setattr(module, name, tree_map_only(Tensor, lambda v: v if id(v) in made_first else v.to("meta"), held))
    with Answers():
        batches = world.on_meta().batches(phase)
        begun = next(batches)
    with autocast_on_meta(), no_wait():
        for batch in chain([begun], islice(batches, 1)):
            _take(method, phase, batch)
    return len(phases)


def _plain(method: Method) -> list[tuple[nn.Module, str, Any]]:
    """The attributes of a method and its parts that hold tensors beside parameters and buffers."""
    every = ((module, name, held) for module in method.modules() for name, held in vars(module).items())
    own = (each for each in every if each[1] not in _MODULES)
    return [each for each in own if any(isinstance(value, Tensor) for value in tree_leaves(each[2]))]


def _take(method: Method, phase: Phase, batch: Batch) -> None:
    for update in phase.updates:
        torch.stack(list(update.loss(batch).values())).sum().backward()
    method.after_step()
    method.step += 1
