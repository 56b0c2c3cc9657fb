"""Every key of a composed configuration is one that something reads, with a value that it can have. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import conf_dir, did_you_mean, load_node, no_such, plain
from distill.config.method_rules import check_method
from distill.config.rules import (
    AT_THE_TOP,
    FOLDERS,
    IN_MEMORY,
    MEAN,
    NODE,
    RULES,
    RULES_OF_GROUPS,
    STD,
    Rule,
    check_rule,
    is_number,
)
from distill.content.data_sets import KNOWN_SETS

# read by checks of their own
_OPEN = {"student.args", "teacher.args", "student.upstream",
         *(f"schedule.{key}" for key in ("optimizer", "lr_scales", "inits"))}  # fmt: skip
NOT_RULED = {"hydra", "leave_out", "method"}


def check_values(cfg: DictConfig) -> None:
    """Raise ValueError for the first key that nothing reads, or whose value is of another kind or out of range."""
    at_the_top = _top()
    for key in map(str, cfg):
        if key in NOT_RULED:
            continue
        if key in RULES_OF_GROUPS:
            _check_node(key, plain(cfg, key) or {}, RULES)
            _check_models(plain(cfg, key) or {})
        elif key in AT_THE_TOP:
            check_rule(key, plain(cfg, key), AT_THE_TOP[key])
        elif key not in at_the_top:
            raise ValueError(no_such("key", key, [*AT_THE_TOP, *RULES_OF_GROUPS]))
    check_data(plain(cfg, "dataset"), str((plain(cfg, "schedule") or {}).get("name")))
    check_constants(cfg)
    check_method(cfg)


@cache
def _top() -> frozenset[str]:
    """The keys at the top of conf/config.yaml."""
    return frozenset(map(str, OmegaConf.load(conf_dir() / "config.yaml")))


def _check_node(above: str, node: Any, rules: Mapping[str, Rule]) -> None:
    """Check a dictionary's keys and values, and those of the dictionaries in it."""
    check_rule(above, node, NODE)
    for key, value in node.items():
        name = f"{above}.{key}"
        if name not in rules:
            known = [rule for rule in rules if rule.rpartition(".")[0] == above]
            raise ValueError(f"{above} has no key '{key}' ({name}): {did_you_mean(name, known)}")
        check_rule(name, value, rules[name])
        if isinstance(value, Mapping) and name not in _OPEN:
            _check_node(name, value, rules)


def _check_models(node: Mapping[str, Any]) -> None:
    """Check the values of those of teacher.models that have keys of their own; which these are, teacher_nodes says."""
    for each in node.get("models") or ():
        for key, value in each.items() if isinstance(each, Mapping) else ():
            if rule := RULES.get(f"teacher.{key}"):
                check_rule(f"teacher.models: {key}", value, rule)


def check_data(node: Mapping[str, Any], schedule: str = "") -> None:
    """Raise ValueError for keys of a data set that its images cannot honour; schedule: its name, which may ask for
    them.
    """
    folder = (node.get("kind") or node.get("name")) == "folder"
    name = node.get("name")
    for key in IN_MEMORY if folder else FOLDERS:
        if node.get(key) not in (None, 0, False):
            other = "that lies in memory, such as cifar100" if folder else "of image files, dataset=folder"
            given, remedy = f"dataset.{key}={node[key]}", f"leave it away for {name}"
            file: Any = load_node("schedule", schedule) or {}
            if key in (file.get("dataset") or {}):
                given, remedy = f"schedule={schedule} asks for {given}, which", f"take another schedule for {name}"
            raise ValueError(f"{given} is for a data set {other}: {remedy}")
    if folder and node.get("pad"):
        raise ValueError(f"dataset.pad={node['pad']}: images of a folder are cropped and resized, not padded: give 0")
    if folder and node.get("resize") is True:
        raise ValueError("dataset.resize=true is for data sets in memory: images of a folder are brought to size by "
                         f"random crops, or with dataset.resize={node.get('size')}, in pixels, whole")  # fmt: skip
    for key in () if folder or not is_number(node.get("size")) else ("pad", "cutout"):
        if (node.get(key) or 0) >= node["size"]:
            what = f"dataset.{key}={node[key]} leaves crops of {node['size']} pixels without any of their image"
            raise ValueError(f"{what}: give less")
    if node.get("kind") and name != node["kind"] and name in KNOWN_SETS:
        what = f"dataset.name={name} is the name of another data set than dataset.kind={node['kind']}"
        raise ValueError(f"{what}: give a name of your own")
    count = node.get("in_chans", 3)
    for key in ("mean", "std"):
        if len(node.get(key) or ()) != count:
            raise ValueError(f"dataset.{key}={node.get(key)} needs {count} values, as dataset.in_chans={count} says")


def check_constants(cfg: DictConfig) -> None:
    """Raise ValueError for a net, one of teacher.models too, that has a mean and no std of its own, or the other way
    round.
    """
    student, teacher = (plain(cfg, role) or {} for role in ("student", "teacher"))
    own = [each for each in teacher.get("models") or () if isinstance(each, Mapping)]
    for role, node in (("student", student), ("teacher", teacher), *(("teacher", each) for each in own)):
        if (node.get("mean") is None) != (node.get("std") is None):
            raise ValueError(f"{role}.mean and {role}.std belong together: give both or neither")
        if node.get("mean") is not None and len(node["mean"]) != len(node["std"]):
            raise ValueError(f"{role}.mean and {role}.std have {len(node['mean'])} and {len(node['std'])} values")
        data = plain(cfg, "dataset")
        count, seen = data.get("in_chans", 3), (data.get("views") or {}).get(role)
        if node.get("mean") is None or seen is not None:  # a view has units of its own
            continue
        if len(node["mean"]) != count:
            raise ValueError(f"{role}.mean={node['mean']} needs {count} values, as dataset.in_chans={count} says")
        check_rule(f"{role}.mean", node["mean"], MEAN)
        check_rule(f"{role}.std", node["std"], STD)
