"""What a method's key may be beside another of the run: `about.limits` of its YAML, such as

    limits: {per_class: at most half of schedule.batch_size, jitter: below dataset.size, student_batch: at most pool}

The other key is one of the run, or of the method itself where it has no dot. A default may stand beyond: it serves all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import load_node, plain
from distill.config.rules import is_number

RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "at most half of": lambda value, bound: 2 * value <= bound,
    "at most": lambda value, bound: value <= bound,
    "at least": lambda value, bound: value >= bound,
    "below": lambda value, bound: value < bound,
    "equal to": lambda value, bound: value == bound,
}


def check_limits(cfg: DictConfig) -> None:
    """Raise ValueError where a key of the method is beyond what about.limits says of it, and is not its default."""
    node = plain(cfg, "method")
    limits = (node.get("about") or {}).get("limits") or {}
    file = load_node("method", str(node["name"])) if limits else None
    usual: Any = {} if file is None else OmegaConf.to_container(file, resolve=False)
    for key, limit in limits.items():
        relation, other = parsed(limit)
        bound = node.get(other) if "." not in other else OmegaConf.select(cfg, other, default=None)
        value = node.get(key)
        values = value if isinstance(value, (list, tuple)) else [value]
        if value == usual.get(key) or not is_number(bound) or not all(map(is_number, values)):
            continue
        if not all(RELATIONS[relation](each, float(bound)) for each in values):
            name = other if "." in other else f"method.{other}"
            given = "leave it away" if "${" in str(usual.get(key)) else f"the default is {usual.get(key)}"
            raise ValueError(f"method.{key}={value} must be {relation} {name}, which is {bound}: {given}")


def parsed(limit: str) -> tuple[str, str]:
    """The relation and the other key of a limit. Raises ValueError for one that cannot be read."""
    words, _, other = str(limit).rpartition(" ")
    if words not in RELATIONS or not other:
        raise ValueError(f"about.limits says '{limit}': write one of {', '.join(RELATIONS)}, and a key")
    return words, other
