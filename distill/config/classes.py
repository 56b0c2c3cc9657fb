"""For how many classes a method's default was published: `about.classes` of its YAML, such as

    classes: {weight: 100, sure_strong: [100, 200, 1000]}

A weight that was found on a hundred classes can be far from its place on ten, where nothing else says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import load_node, plain

BEYOND = 2  # so many times as many classes, or as few: what is beyond is told


def note_of_classes(cfg: DictConfig) -> str | None:
    """One line on defaults of the method that were published for far fewer or more classes; None where none were."""
    node = plain(cfg, "method")
    stated = (node.get("about") or {}).get("classes") or {}
    file = load_node("method", str(node["name"])) if stated else None
    count = None if file is None else classes_of(cfg)
    if not count or file is None:
        return None
    told = [
        f"method.{key}={node[key]:g} was published for {_words(published)} classes"
        for key, published in stated.items()
        if node.get(key) == file.get(key)
        and not any(1 / BEYOND <= count / each <= BEYOND for each in _counts(published))
    ]
    if not told:
        return None
    return f"{', '.join(told)}, and {plain(cfg, 'dataset.name')} has {count}: another may be needed (distill search)"


def classes_of(cfg: DictConfig) -> int | None:
    """How many classes a run learns; None where nobody knows, or where it reads no labels."""
    node: dict[str, Any] = plain(cfg, "dataset")
    if node.get("labels") is False:
        return None
    if chosen := node.get("classes"):
        return len(chosen)
    if (given := node.get("num_classes")) or node.get("kind") != "folder":
        return given
    from distill.content.listing import train_listed  # numpy

    try:
        return len(train_listed(Path(str(OmegaConf.select(cfg, "dataset.root")))).classes)
    except ValueError:  # which is said where the folder is read
        return None


def _counts(published: Any) -> list[int]:
    return list(published) if isinstance(published, (list, tuple)) else [published]


def _words(published: Any) -> str:
    return " or ".join(map(str, _counts(published)))
