"""What null stands for, where a key may be null: a run that says so is no other than one that says null.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from distill.config.data_spec import DataSpec
from distill.config.rules import RULES_OF_GROUPS
from distill.config.run_spec import NEIGHBOURS
from distill.config.schedule_spec import ScheduleSpec

_Node = Mapping[str, Any]
NULL = "null"  # as one is hashed that says something


def _defaults(group: str, spec: type[DataSpec] | type[ScheduleSpec]) -> dict[str, Any]:
    """The defaults of a group's keys that may be null."""
    rules = RULES_OF_GROUPS[group]
    usual = {each.name: each.default for each in fields(spec) if each.default is not MISSING}
    return {key: value for key, value in usual.items() if key in rules and rules[key][1].endswith(", or null")}


DEFAULTS = {"dataset": _defaults("dataset", DataSpec), "schedule": _defaults("schedule", ScheduleSpec)}


def told(group: str, node: _Node) -> dict[str, Any]:
    """What a data set or a schedule says beyond what null stands for: in mixup the rule, where there is one."""
    return _beyond(node, {**DEFAULTS[group], **({} if node.get("rule") else {"mixup": 0})})


def told_apart(own: Mapping[str, _Node], seen: _Node) -> dict[str, dict[str, Any]]:
    """What the run that trains a teacher says of its own; seen: the data set of the run that it teaches, as `told`.

    Its data set takes the place of that key by key, so that what null stands for, and null, count where `seen` says
    otherwise.
    """
    found = {group: told(group, node) for group, node in own.items()}
    if "dataset" in own:
        changes = in_place(own["dataset"])
        found["dataset"] |= {key: value for key, value in changes.items() if seen.get(key) is not None}
    return found


def in_place(node: Any) -> Any:
    """A node of keys that take the place of others', where a null says something: it takes away what these say."""
    if isinstance(node, Mapping):
        return {key: NULL if value is None else in_place(value) for key, value in node.items()}
    return node


def usually_measured(dataset: _Node) -> dict[str, Any]:
    """What null stands for in `evaluate`: features are measured where training reads no labels."""
    unlabelled = dataset.get("labels") is False
    return {"knn": unlabelled, "probe": unlabelled, "neighbours": NEIGHBOURS, "images": 0}


def told_of_features(node: _Node | None, dataset: _Node) -> dict[str, Any]:
    """What `evaluate` says beyond what null stands for."""
    return _beyond(node or {}, usually_measured(dataset))


def _beyond(node: _Node, usual: _Node) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in usual or value != usual[key]}


def canonical(value: Any) -> Any:
    """One spelling of equal configurations: 1.0 is 1, and a null key is as good as an absent one."""
    if isinstance(value, Mapping):
        items = {str(key): canonical(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None and item != {}}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
