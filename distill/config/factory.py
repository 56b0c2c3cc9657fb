"""From a config node to the object that it describes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig

from distill.config.groups import as_plain, did_you_mean
from distill.config.own_code import own_line
from distill.config.plugins import is_plugins
from distill.config.read_only import thawed


def instantiate(node: DictConfig | Mapping[str, Any], *objects: Any) -> Any:
    """The object that a config node describes: its `_target_`, called with `objects` and the other keys.

    Raises ValueError for a target outside distill, a key that the class does not take or one that it misses.
    """
    kind, arguments = _arguments(node)
    try:
        return kind(*objects, **arguments)
    except TypeError as error:
        label, line = node.get("name"), own_line(error)
        remedy = "see its YAML for their kinds" + f", or mend its code{line}" * bool(line)
        raise ValueError(f"{label} cannot be made of its keys ({error}): {remedy}") from error


def _arguments(node: DictConfig | Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """The class that a node names, and the keywords for it. Raises ValueError."""
    arguments = as_plain(thawed(node) if isinstance(node, MappingProxyType) else node)
    target = str(arguments.pop("_target_", ""))
    label = str(arguments.pop("name", target))
    arguments.pop("about", None)
    kind = _locate(target, label)
    known, required = keywords(kind)
    arguments = {key: value for key, value in arguments.items() if key in known or value is not None}
    for key in arguments:
        if key not in known:
            raise ValueError(f"{label} does not take the key '{key}': {did_you_mean(key, sorted(known))}")
    if missing := sorted(required - set(arguments)):
        raise ValueError(f"{label} needs a value for {', '.join(missing)}: add it to its YAML")
    return kind, arguments


def check_class(node: DictConfig | Mapping[str, Any]) -> None:
    """Raise ValueError where a config node's class, or one of its keys, cannot be; nothing is built."""
    _arguments(node)


def class_of(node: DictConfig | Mapping[str, Any]) -> Any:
    """The class that a config node names. Raises ValueError for a target outside distill."""
    return _locate(str(node["_target_"]), str(node["name"]))


def _locate(target: str, label: str) -> type:
    """The class behind a dotted path below `distill.` or a plugin; nothing else may be named by a configuration."""
    module, _, name = target.rpartition(".")
    ours = target.startswith("distill.") or is_plugins(target)
    if not ours or not all(part.isidentifier() for part in target.split(".")):
        hint = f": name its module, plugins=[{module}]" if module else ""
        raise ValueError(f"{label}: _target_ must name something below 'distill.' or a plugin, not '{target}'{hint}")
    try:
        kind: type = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{label}: there is no '{target}' ({error}): check _target_ in its YAML") from error
    if not inspect.isclass(kind):
        raise ValueError(f"{label}: '{target}' is not a class: check _target_ in its YAML")
    return kind


def keywords(kind: type) -> tuple[set[str], set[str]]:
    """All keyword-only arguments of a class, and those without a default; **kwargs stand for its base's."""
    known: dict[str, bool] = {}
    for call in [vars(cls)["__init__"] for cls in kind.__mro__ if "__init__" in vars(cls)]:
        parameters = inspect.signature(call).parameters.values()
        for item in parameters:
            if item.kind is item.KEYWORD_ONLY:
                known.setdefault(item.name, item.default is item.empty)
        if not any(item.kind is item.VAR_KEYWORD for item in parameters):
            break
    return set(known), {name for name, needed in known.items() if needed}
