"""Which keywords a network's constructor takes: one of student.args or teacher.args that nothing reads is refused."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from distill.config.groups import did_you_mean

_BUILDERS = ("timm.models._factory", "timm.models._builder")  # which read some on the way
_OURS = ("self", "num_classes", "in_chans", "size")  # set by the data
_WEIGHTS = "weights are given by student.weights, teacher.start or teacher.weights"
_MAKING = "it is timm's, for other things than a classifier's layers"
RESERVED = {  # keywords of timm that are no args of a net, and why
    **dict.fromkeys(("num_classes", "in_chans"), "the data say it"),
    **dict.fromkeys(("pretrained", "pretrained_strict", "checkpoint_path", "cache_dir"), _WEIGHTS),
    **dict.fromkeys(("pretrained_cfg", "pretrained_cfg_overlay"), f"{_WEIGHTS}, constants by mean and std"),
    **dict.fromkeys(("features_only", "feature_cfg", "out_indices", "model_cfg", "kwargs_filter"), _MAKING),
    **dict.fromkeys(("scriptable", "exportable", "no_jit", "pretrained_filter_fn", "pretrained_model_args"), _MAKING),
}
_UNEXPECTED = re.compile(r"unexpected keyword argument(?:\(s\): \[)? ?'(\w+)'")


def unexpected(error: BaseException) -> str | None:
    """The keyword that a constructor has refused, None where it failed otherwise."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    return found[1] if found else None


def check_not_reserved(name: str, args: Iterable[str]) -> None:
    """Raise ValueError for keys of args that would go to timm's factory and not to the network."""
    for key in args:
        if key in RESERVED:
            raise ValueError(f"{name} does not take the args key '{key}': {RESERVED[key]}; leave it out")


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
