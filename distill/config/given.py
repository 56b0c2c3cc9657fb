"""Which keys somebody has given a value, as against those that stand at their defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import conf_dir, load_node, options
from distill.config.idle import leaves
from distill.config.rules import FOLDERS, IN_MEMORY

Override = Any  # of Hydra's parser
_NO_KEYS = ("defaults", "hydra", "leave_out")
_ITS_OWN = {  # keys of a file whose readers stand in the same file
    "schedule": ("milestones", "gamma", "lr_min", "resize", "crop"),
    "dataset": ("root", *FOLDERS, *IN_MEMORY),
}


def given_keys(overrides: Sequence[Override], is_group: Callable[[Override], bool]) -> Iterator[str]:
    """The keys of a command line, those of a dictionary each by itself."""
    for item in overrides:
        if not (is_group(item) or item.is_delete() or item.key_or_group.startswith("hydra")):
            yield from leaves(item.key_or_group, item.value())


def check_own(key: str, value: Any, reference: DictConfig) -> None:
    """Raise ValueError for what a file of conf/ says of itself, and no command line: what a method is, and its name."""
    group, _, name = key.partition(".")
    if key.startswith("method.about") or name == "_target_" and group in ("method", "tracking"):
        raise ValueError(f"{key} is of the file of a method, which says what it is: write one, --config-dir FOLDER")
    if name == "name" and group in ("method", "schedule") and value in options(group):
        chosen = OmegaConf.select(reference, key, default=None)
        if value != chosen:
            raise ValueError(f"{key}={value} would call {chosen} by another's name: choose it, {group}={value}")


def keys_of_files(overrides: Sequence[Override]) -> Iterator[str]:
    """The keys that files of choice set: an experiment's, unless the command line chooses otherwise than it does, and
    those of an own schedule or data set that speak of nothing else.
    """
    chosen = {item.key_or_group: str(item.value()) for item in overrides if not item.is_delete()}
    experiment = chosen.get("experiment")
    node = _node("experiment", experiment)
    swept = OmegaConf.select(node, "hydra.sweeper.params", default=None) or {}
    if experiment and not set(chosen) - {"experiment", "tracking", *swept}:
        plain: Any = OmegaConf.to_container(node, resolve=False)
        for key, value in plain.items():
            if key not in _NO_KEYS:
                yield from leaves(str(key), value)
    for group, keys in _ITS_OWN.items():
        name = str(chosen.get(group))
        if group in chosen and not (conf_dir() / group / f"{name}.yaml").is_file():
            yield from (f"{group}.{key}" for key in keys if key in _node(group, name))


def _node(group: str, name: str | None) -> DictConfig:
    return load_node(group, name) or OmegaConf.create({}) if name else OmegaConf.create({})
