"""Which keywords a network's constructor takes: one of student.args or teacher.args that nothing reads is refused."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from distill.config.groups import did_you_mean

_BUILDERS = ("timm.models._factory", "timm.models._builder")  # which read some on the way
_OURS = ("self", "num_classes", "in_chans", "size")  # set by the data
_UNEXPECTED = re.compile(r"unexpected keyword argument(?:\(s\): \[)? ?'(\w+)'")


def unexpected(error: BaseException) -> str | None:
    """The keyword that a constructor has refused, None where it failed otherwise."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    return found[1] if found else None


def refused_key(key: str, name: str, made_by: Callable[..., Any]) -> str:
    """The sentence for a keyword that a network's class or function does not take, with the nearest that it does."""
    known = [each for each in parameters(made_by) if each not in _OURS]
    return f"{name} does not take the args key '{key}': {did_you_mean(key, known) if known else 'it takes none'}"


def parameters(made_by: Callable[..., Any]) -> list[str]:
    """The named parameters of a function, or of the constructors of a class as far as **kwargs go on to its bases."""
    calls = [vars(kind)["__init__"] for kind in made_by.__mro__ if "__init__" in vars(kind)] \
        if inspect.isclass(made_by) else [made_by]  # fmt: skip
    found: dict[str, None] = {}
    for call in calls:
        every = inspect.signature(call).parameters.values()
        found |= {each.name: None for each in every if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        if not any(each.kind is each.VAR_KEYWORD for each in every):
            break
    return list(found)


def check_read(key: str, name: str, net: nn.Module) -> None:
    """Raise ValueError for a keyword that timm has taken in silence and that stands nowhere in the network's sources.

    It drops those that are null, and some classes take any.
    """
    kinds = type(net).__mro__
    if key in parameters(type(net)):
        return
    modules = {*_BUILDERS, *(kind.__module__ for kind in kinds if kind.__module__.startswith("timm."))}
    if not modules - set(_BUILDERS):  # somebody's own, whose reading is not to be seen
        return
    sources = (inspect.getsource(sys.modules[module]) for module in modules if module in sys.modules)
    if not any(re.search(rf"\b{re.escape(key)}\b", source) for source in sources):
        raise ValueError(refused_key(key, name, type(net)))
