"""Every key of a composed configuration is one that something reads, with a value that it can have. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import conf_dir, did_you_mean, load_node, plain
from distill.config.rules import (
    AT_THE_TOP,
    COUNT,
    FLAG,
    FOLDERS,
    IN_MEMORY,
    INDEX,
    KINDS,
    NODE,
    NOT_NEGATIVE,
    POSITIVE,
    RULES,
    RULES_OF_GROUPS,
    TEXT,
    WHOLE_NUMBER,
    Rule,
    check_rule,
    is_number,
)

_OPEN = {"student.args", "teacher.args", "student.upstream", "schedule.optimizer"}  # read by checks of their own
NOT_RULED = {"hydra", "leave_out", "method"}
NOT_A_METHODS = {"_target_", "name", "about"}


def check_values(cfg: DictConfig) -> None:
    """Raise ValueError for the first key that nothing reads, or whose value is of another kind or out of range."""
    at_the_top = _top()
    for key in map(str, cfg):
        if key in NOT_RULED:
            continue
        if key in RULES_OF_GROUPS:
            _check_node(key, plain(cfg, key) or {}, RULES)
        elif key in AT_THE_TOP:
            check_rule(key, plain(cfg, key), AT_THE_TOP[key])
        elif key not in at_the_top:
            raise ValueError(f"there is no key '{key}': {did_you_mean(key, [*AT_THE_TOP, *RULES_OF_GROUPS])}")
    check_data(plain(cfg, "dataset"))
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


def check_data(node: Mapping[str, Any]) -> None:
    """Raise ValueError for keys of a data set that its images cannot honour."""
    folder = (node.get("kind") or node.get("name")) == "folder"
    name = node.get("name")
    for key in IN_MEMORY if folder else FOLDERS:
        if node.get(key) not in (None, 0, False):
            other = "that lies in memory, such as cifar100" if folder else "of image files, dataset=folder"
            raise ValueError(f"dataset.{key}={node[key]} is for a data set {other}: leave it away for {name}")
    if folder and node.get("pad"):
        raise ValueError(f"dataset.pad={node['pad']}: images of a folder are cropped and resized, not padded: give 0")
    count = node.get("in_chans", 3)
    for key in ("mean", "std"):
        if len(node.get(key) or ()) != count:
            raise ValueError(f"dataset.{key}={node.get(key)} needs {count} values, as dataset.in_chans={count} says")


def check_constants(cfg: DictConfig) -> None:
    """Raise ValueError for a net that has a mean and no std of its own, or the other way round."""
    for role in ("student", "teacher"):
        node = plain(cfg, role) or {}
        if (node.get("mean") is None) != (node.get("std") is None):
            raise ValueError(f"{role}.mean and {role}.std belong together: give both or neither")
        if node.get("mean") is not None and len(node["mean"]) != len(node["std"]):
            raise ValueError(f"{role}.mean and {role}.std have {len(node['mean'])} and {len(node['std'])} values")


def check_method(cfg: DictConfig) -> None:
    """Raise ValueError for a key that the method does not take, or a value that it cannot have; null is no value."""
    name, node = str(cfg.method.name), plain(cfg, "method")
    own = _method_rules(name)
    for key, value in node.items():
        if key in NOT_A_METHODS or (value is None and key not in own):
            continue
        if own and key not in own:
            raise ValueError(f"method.{key}: {name} does not take the key '{key}': {did_you_mean(key, sorted(own))}")
        if own and not key.endswith("optimizer"):
            check_rule(f"method.{key}", value, own[key])


@cache
def _method_rules(name: str) -> dict[str, Rule]:
    """The rule of each key of a method's YAML; nothing for a method that we have none of."""
    node = load_node("method", name)
    if node is None:
        return {}
    content: Any = OmegaConf.to_container(node, resolve=False)
    named = (content.get("about") or {}).get("values") or {}
    return {key: _named(name, key, named[key]) if key in named else rule_like(key, default)
            for key, default in content.items() if key not in NOT_A_METHODS}  # fmt: skip


def _named(method: str, key: str, kind: str) -> Rule:
    if kind not in KINDS:
        raise ValueError(f"conf/method/{method}.yaml: about.values.{key} is '{kind}': {did_you_mean(kind, KINDS)}")
    return KINDS[kind]


DIVISORS = ("temperature", "temperatures", "tau", "lr")
COUNTS = ("batch_size", "dim", "width", "latent", "hidden", "steps", "peers", "branches", "heads")
# ends of keys whose default is another key's value
INTERPOLATED = {"epochs": WHOLE_NUMBER, "pad": WHOLE_NUMBER, "batch_size": COUNT}


def rule_like(key: str, default: Any) -> Rule:
    """The rule of a method's key by its name and its default: numbers are not negative, divisors and rates above 0.

    Raises ValueError for a key that neither tells, null among them: about.values is to name its kind.
    """
    if isinstance(default, bool):
        return FLAG
    if isinstance(default, str):
        ends = [rule for end, rule in INTERPOLATED.items() if key.endswith(end)] if "${" in default else [TEXT]
        if not ends:
            raise ValueError(f"about.values of a method's YAML says nothing of {key}, whose default is another's value")
        return ends[0]
    if key.endswith(DIVISORS):
        return (_positives, "must be a list of numbers above 0") if isinstance(default, list) else POSITIVE
    if isinstance(default, int):
        return INDEX if default < 0 else COUNT if key.endswith(COUNTS) else WHOLE_NUMBER
    if isinstance(default, float):
        return NOT_NEGATIVE
    if isinstance(default, dict):
        return NODE
    if not default:
        raise ValueError(f"about.values of a method's YAML says nothing of {key}, whose default is {default}")
    return (_plain_list, "must be a list of numbers, not negative, or of names")


def _positives(value: Any) -> bool:
    return isinstance(value, list) and all(is_number(item) and item > 0 for item in value)


def _plain_list(value: Any) -> bool:
    """A list of numbers that are not negative and of texts, of lists of them too."""
    return isinstance(value, list) and all(
        _plain_list(item) or NOT_NEGATIVE[0](item) or isinstance(item, str) for item in value
    )
