"""Nets without memory, for what depends on shapes alone: nothing is drawn, and copies are made of a net built once."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distill.models.families import CONSTRUCTORS
from distill.models.feature_net import FeatureNet

_INTO = {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_, Tensor.erfinv_}
_ANEW: dict[Any, Any] = {torch.randn: torch.empty, torch.rand: torch.empty}


@contextmanager
def without_memory() -> Iterator[None]:
    """Tensors are made on the meta device, where what is drawn into them is lost: so it is not drawn."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Tensors stay as they are where numbers were to be drawn into them; on the meta device torch imports for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _INTO:
            return args[0]
        kwargs = dict(kwargs or {})
        if func in _ANEW and kwargs.get("device") is None and torch.get_default_device().type == "meta":
            kwargs.pop("generator", None)
            func = _ANEW[func]
        return func(*args, **kwargs)


def shaped(make: Callable[[], FeatureNet], name: str) -> FeatureNet:
    """A net on the meta device. Our own are small, and made in memory first: torch imports a second's worth of modules
    for the first forward pass on the meta device.
    """
    if name not in CONSTRUCTORS:
        return make()
    with torch.device("cpu"), _NothingDrawn():
        net = make()
    return net.to("meta")


class Prototype:
    """Makes copies of a net, on the meta device several times as fast as deepcopy does. Functions are shared."""

    def __init__(self, net: FeatureNet) -> None:
        self._shared: list[Any] = []
        file = io.BytesIO()
        _Packer(file, self._shared).dump(net)
        self._packed = file.getvalue()

    def copy(self) -> FeatureNet:
        """Another net that computes the same."""
        with torch._C.DisableTorchFunction():  # modes have nothing to say here, and are asked for each tensor
            copied: FeatureNet = _Unpacker(io.BytesIO(self._packed), self._shared).load()
        return copied


class _Packer(pickle.Pickler):
    """Puts tensors and functions aside: those without a name of their own (lambdas, hooks) cannot be packed."""

    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._shared = shared
        self._places: dict[int, int] = {}

    def persistent_id(self, item: Any) -> int | None:
        if not isinstance(item, (Tensor, FunctionType)):
            return None
        if id(item) not in self._places:
            self._places[id(item)] = len(self._shared)
            self._shared.append(item)
        return self._places[id(item)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared = shared
        self._made: dict[int, Any] = {}

    def persistent_load(self, place: int) -> Any:
        if place not in self._made:
            self._made[place] = _another(self._shared[place])
        return self._made[place]


def _another(item: Any) -> Any:
    """A tensor of the same shape, without memory as it is; a function itself."""
    if isinstance(item, nn.Parameter):
        return nn.Parameter(item.detach(), item.requires_grad)
    return item.detach() if isinstance(item, Tensor) else item
