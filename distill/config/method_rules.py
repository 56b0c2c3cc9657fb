"""What each key of a method may be: a kind and a range, by its name and its default, or as `about.values` says.

`about.values` of conf/method/<name>.yaml names one of `rules.KINDS` (`ends: bits or null`) or the words that there are
(`form: authors | paper`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import did_you_mean, file_state, load_node, plain
from distill.config.rules import (
    BELOW_ONE,
    COUNT,
    FLAG,
    FRACTION,
    INDEX,
    KINDS,
    NODE,
    TEXT,
    UNIT_SHARE,
    WHOLE_NUMBER,
    Rule,
    check_rule,
    number_between,
    or_null,
    whole,
)

NOT_A_METHODS = {"_target_", "name", "about"}
GREATEST = 1e6  # of a weight or a temperature: what is above is a slip of the keyboard, and trains nothing
MANY_OF = 10**7  # of images, steps and units

AMOUNT = number_between(0, GREATEST)
ABOVE_ZERO = number_between(0, GREATEST, above=True)
_WHOLE, _COUNT, _TWO = whole(0, MANY_OF), whole(1, MANY_OF), whole(2, MANY_OF)
BY_NAME: dict[str, Rule] = {  # what a key of this name means, whichever method has it
    **dict.fromkeys(("momentum", "dropout", "epsilon", "ratio"), BELOW_ONE),
    **dict.fromkeys(("tau", "cap", "budget", "share", "rate"), FRACTION),
    **dict.fromkeys(("keep_turned", "keep_similarity", "kd_fall", "sure_weak", "sure_strong", "held", "correct",
                     "decay_from"), UNIT_SHARE),
    **dict.fromkeys(("p", "p1", "p2", "norm", "exponent", "variance", "bound", "attack_rate", "t_start"), ABOVE_ZERO),
    **dict.fromkeys(("copies", "projectors", "negatives", "batches", "anchors", "specialists", "generations", "grid",
                     "size", "k", "order", "attacks", "pool", "student_batch", "factor", "bucket"), _COUNT),
    **dict.fromkeys(("per_class", "tasks"), _TWO),
    "first_epoch": whole(0, 1),
}  # fmt: skip
DIVISORS = ("temperature", "temperatures", "tau", "lr")
COUNTS = ("batch_size", "dim", "width", "latent", "hidden", "steps", "peers", "branches", "heads")
# ends of keys whose default is another key's value
INTERPOLATED = {"epochs": WHOLE_NUMBER, "pad": WHOLE_NUMBER, "batch_size": COUNT}


def check_method(cfg: DictConfig) -> None:
    """Raise ValueError for a key that the method does not take, or a value that it cannot have; null is no value. So
    for the name of another method, under whose name results would be filed.
    """
    name, node = str(cfg.method.name), plain(cfg, "method")
    named: Any = load_node("method", name) or {}
    if (other := named.get("_target_", node["_target_"])) != node["_target_"]:
        said = f"{node['_target_']} is called {name}, which is the name of {other}"
        raise ValueError(f"{said}: name it as its own file is called, `name:` in its YAML")
    own = method_rules(name)
    for key, value in node.items():
        if key in NOT_A_METHODS or (value is None and key not in own):
            continue
        if own and key not in own:
            raise ValueError(f"method.{key}: {name} does not take the key '{key}': {did_you_mean(key, sorted(own))}")
        if own and not key.endswith("optimizer"):
            check_rule(f"method.{key}", value, own[key])


def method_rules(name: str) -> dict[str, Rule]:
    """The rule of each key of a method's YAML; nothing for a method that we have none of."""
    return _rules_of(name, file_state("method", name))


@cache
def _rules_of(name: str, state: Any) -> dict[str, Rule]:
    node = load_node("method", name)
    if node is None:
        return {}
    content: Any = OmegaConf.to_container(node, resolve=False)
    named = (content.get("about") or {}).get("values") or {}
    return {key: _named(name, key, named[key]) if key in named else rule_like(key, default)
            for key, default in content.items() if key not in NOT_A_METHODS}  # fmt: skip


def _named(method: str, key: str, kind: str) -> Rule:
    words = [word.strip() for word in kind.split("|")]
    if len(words) > 1:
        return or_null(_words(*words[:-1])) if words[-1] == "null" else _words(*words)
    if kind not in KINDS:
        raise ValueError(f"conf/method/{method}.yaml: about.values.{key} is '{kind}': {did_you_mean(kind, KINDS)}")
    return KINDS[kind]


def _words(*names: str) -> Rule:
    return (lambda value: value in names, f"must be one of {', '.join(names)}")


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
    if isinstance(default, dict):
        return NODE
    if isinstance(default, list):
        return _list_like(key, default)
    if key in BY_NAME:
        return BY_NAME[key]
    if key.endswith(DIVISORS):
        return ABOVE_ZERO
    if isinstance(default, int):
        return INDEX if default < 0 else _COUNT if default and key.endswith(COUNTS) else _WHOLE
    if isinstance(default, float):
        return AMOUNT
    raise ValueError(f"about.values of a method's YAML says nothing of {key}, whose default is {default}")


def _list_like(key: str, default: list[Any]) -> Rule:
    if key.endswith(DIVISORS):
        return (_positives, f"must be a list of numbers above 0, at most {GREATEST:g}")
    if not default:
        raise ValueError(f"about.values of a method's YAML says nothing of {key}, whose default is {default}")
    return (_plain_list, f"must be a list of numbers from 0 to {GREATEST:g}, or of names")


def _positives(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(ABOVE_ZERO[0](item) for item in value)


def _plain_list(value: Any) -> bool:
    """A list of numbers that are not negative and of texts, of lists of them too."""
    return isinstance(value, list) and all(
        _plain_list(item) or AMOUNT[0](item) or isinstance(item, str) for item in value
    )
