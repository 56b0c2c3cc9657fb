"""Which optimisers there are, their options and what these may be, without torch: what is not among them is refused and
not ignored.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from distill.config.groups import no_such, plain
from distill.config.rules import is_number

OPTIMIZER_OPTIONS = {  # of torch's own; further names are timm's, which knows their options
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adam": ("betas", "eps", "amsgrad", "weight_decay"),
    "adamw": ("betas", "eps", "amsgrad", "weight_decay"),
}
TIMMS_OWN = ("weight_decay",)  # which every optimiser of timm is given
_TIMMS = re.compile(r"OptimInfo\(\s*name='(\w+)'")


def _number(value: Any) -> bool:
    return is_number(value)


def _not_negative(value: Any) -> bool:
    return _number(value) and 0 <= value < float("inf")


def _below_one(value: Any) -> bool:
    return _not_negative(value) and value < 1


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "momentum": (_below_one, "must be in [0, 1)"),
    "dampening": (_not_negative, "must not be negative"),
    "weight_decay": (_not_negative, "must not be negative"),
    "eps": (_not_negative, "must not be negative"),
    "nesterov": (lambda value: isinstance(value, bool), "must be true or false"),
    "amsgrad": (lambda value: isinstance(value, bool), "must be true or false"),
    "betas": (
        lambda value: isinstance(value, (list, tuple)) and all(map(_below_one, value)),
        "must be numbers in [0, 1), such as [0.9,0.999]",
    ),
}


@cache
def timms_optimizers() -> tuple[str, ...]:
    """The names of timm's optimisers, read from its source since importing it takes seconds."""
    spec = find_spec("timm")
    source = Path(spec.origin or "").parent / "optim" / "_optim_factory.py" if spec else Path()
    return tuple(_TIMMS.findall(source.read_text(encoding="utf-8"))) if source.is_file() else ()


def check_optimizer(name: str) -> None:
    """Raise ValueError for an optimiser that is neither torch's nor, where its list can be read, timm's; for one of
    another package, and for one that asks more of a step than gradients.
    """
    known = {*OPTIMIZER_OPTIONS, *timms_optimizers()}
    if _bare(name) not in known and timms_optimizers():
        raise ValueError(no_such("optimiser", name, sorted(known)))
    if name in OPTIMIZER_OPTIONS or not timms_optimizers():
        return
    info = _info(name)
    package = str(info.opt_class).partition(".")[0] if isinstance(info.opt_class, str) else "timm"
    if find_spec(package) is None:
        raise ValueError(f"the optimiser {name} wants the package {package}: install it, or take another")
    if info.second_order:
        raise ValueError(f"the optimiser {name} asks for second derivatives, which no step here has: take another, "
                         "such as adamw")  # fmt: skip


def _info(name: str) -> Any:
    """What timm knows of one of its optimisers."""
    from timm.optim import get_optimizer_info  # imports torch

    return get_optimizer_info(_bare(name))


def _bare(name: str) -> str:
    """The optimiser by itself, whose options Lookahead (lookahead_sgd) hands on to it."""
    return name.removeprefix("lookahead_")


def _parameters(optimizer: str) -> Mapping[str, inspect.Parameter]:
    """What the class of one of timm's optimisers takes; nothing where timm cannot make it."""
    from timm.optim import get_optimizer_class  # imports torch

    with contextlib.suppress(ValueError):
        found = inspect.signature(get_optimizer_class(_bare(optimizer), bind_defaults=False)).parameters
        return {key: each for key, each in found.items() if key not in ("self", "params", "lr")}
    return {}


def takes_option(optimizer: str, key: str) -> bool:
    """Whether an optimiser has an option; of timm's by the signature of its class."""
    if optimizer in OPTIMIZER_OPTIONS:
        return key in OPTIMIZER_OPTIONS[optimizer]
    if key in TIMMS_OWN:
        return True
    if key == "momentum":
        return bool(_info(optimizer).has_momentum)
    return key in _parameters(optimizer)


def check_option(optimizer: str, key: str) -> None:
    """Raise ValueError for an option that an optimiser does not have."""
    if not takes_option(optimizer, key):
        takes = ", ".join(OPTIMIZER_OPTIONS.get(optimizer, ("its own",)))
        raise ValueError(f"the optimiser {optimizer} has no option {key}: it takes {takes}")


def check_value(optimizer: str, key: str, value: Any, label: str) -> None:
    """Raise ValueError for a value that an option cannot have; null is none."""
    if value is None or key == "name":
        return
    valid, words = VALUES.get(key) or _like(optimizer, key)
    if not valid(value):
        raise ValueError(f"{label}={value}: {label} {words}")
    if key == "betas" and len(value) != (count := _betas(optimizer)):
        raise ValueError(f"{label}={value}: {optimizer} has {count} betas")


def _betas(optimizer: str) -> int:
    return 2 if optimizer in OPTIMIZER_OPTIONS else int(_info(optimizer).num_betas)


def _like(optimizer: str, key: str) -> tuple[Callable[[Any], bool], str]:
    """What an option of timm's own may be, by its default: a default of null tells nothing."""
    own = {} if optimizer in OPTIMIZER_OPTIONS else _parameters(optimizer)
    default = own[key].default if key in own else None
    if isinstance(default, bool):
        return (lambda value: isinstance(value, bool)), "must be true or false"
    if isinstance(default, (int, float)):
        return _number, "must be a number"
    if isinstance(default, str):
        return (lambda value: isinstance(value, str)), f"must be a word, such as {default}"
    return (lambda _: True), ""


def check_typed_options(cfg: DictConfig, keys: Iterable[str]) -> None:
    """Raise ValueError for a key of the command line that gives the schedule's optimiser what it does not have.

    Those of SGD that stand in the schedule's file are no option of the user's: another optimiser leaves them out.
    """
    optimizer = str(plain(cfg, "schedule.optimizer.name") or "sgd")
    for key in keys:
        option = key.removeprefix("schedule.optimizer.")
        if option not in (key, "name"):
            check_option(optimizer, option)
