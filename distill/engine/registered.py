"""What a method holds that no optimiser, checkpoint or device would reach, since torch does not know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from distill.method import Method

_DEEP = 3  # containers within containers


def check_registered(method: Method) -> None:
    """Raise ValueError where weights that are to be trained lie in a list, a dictionary or a plain attribute, and where
    a teacher's are no longer frozen.
    """
    known = {id(p) for p in method.parameters()}
    if any(p.requires_grad for teacher in method.teachers for p in teacher.parameters()):
        why = "a teacher stays as it was measured"
        raise ValueError(f"{type(method).__name__} has a teacher ask for gradients: {why}; train a copy of it")
    for path, module in method.named_modules():
        for name, value in vars(module).items():
            for weights in _weights(value, _DEEP):
                if weights.requires_grad and weights.is_leaf and id(weights) not in known:
                    where = f"{path}.{name}" if path else name
                    raise ValueError(
                        f"{type(method).__name__}.{where} holds weights that would never be trained, saved or moved to "
                        "a GPU: make it an nn.ModuleList, an nn.ModuleDict or an nn.Parameter"
                    )


def _weights(value: Any, deep: int) -> Iterator[Tensor]:
    """The tensors in a value, and in the containers that it is made of."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif deep and isinstance(value, Mapping | list | tuple | set):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _weights(each, deep - 1)
