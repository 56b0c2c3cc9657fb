"""What a method does otherwise than its paper on purpose: `about.departs` of its YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from distill.config.groups import load_node


def departs(method: Mapping[str, Any]) -> str | None:
    """The sentence of a method's node, as it is set; None where nothing departs.

    about.departs is a sentence, or {key=value: sentence} for what a key decides: {solver=exact: ...}.
    """
    stated = (method.get("about") or {}).get("departs")
    if not isinstance(stated, Mapping):
        return " ".join(str(stated).split()) if stated else None
    held = [" ".join(str(sentence).split()) for condition, sentence in stated.items() if _holds(method, str(condition))]
    return " ".join(held) or None


def departs_by_name(name: str) -> str | None:
    """The same of a method's defaults; None for a method that is not among ours.

    A key that the data set decides (${by_value:${dataset.labels},...}) holds no condition here.
    """
    node = load_node("method", name)
    if node is None:
        return None
    return departs(OmegaConf.create({"method": node})["method"])  # below its root: a key may be ${method.other}


def _holds(method: Mapping[str, Any], condition: str) -> bool:
    key, _, value = condition.partition("=")
    try:
        return str(method.get(key)).lower() == value.lower()
    except InterpolationKeyError:
        return False
