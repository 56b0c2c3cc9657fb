"""What the cells of distill/papers/settings.yaml compose to, beside what they state."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from itertools import groupby
from math import isclose
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill import config
from distill.config.schedule_spec import lr_share
from distill.papers import settings
from distill.papers.settings import ExpectedConfig
from tests.compositions import composed  # tests.tiny's has a shorter schedule, and that is compared here

ROWS = {name: list(group) for name, group in groupby(settings.cells(), lambda cell: f"{cell.block}:{cell.method}")}


def words(cell: ExpectedConfig) -> list[str]:
    """The command line of a cell, without its pair."""
    experiment = any(word.startswith("experiment=") for word in cell.words)
    if experiment:
        return [f"method={cell.method}", *cell.words]
    own = [f"schedule={cell.protocol}"] if cell.protocol not in (None, cell.dataset) else []
    return [f"method={cell.method}", f"dataset={cell.dataset}", *own, *cell.words]


def pair_words(cell: ExpectedConfig) -> list[str]:
    """pair=..., or teacher=... student=..., a net without a YAML being one of timm's."""
    if cell.pair is None:
        return []
    teacher, student = cell.pair.split("-", 1)
    if f"{teacher}_{student}" in config.options("pair"):
        return [f"pair={teacher}_{student}"]
    return [*_net("teacher", teacher), *_net("student", student)]


def _net(group: str, name: str) -> list[str]:
    if name in config.options(group):
        return [f"{group}={name}"]
    return [f"{group}=timm", f"{group}.model={name}"]


@cache
def _shared() -> Any:
    return OmegaConf.load(config.conf_dir() / "config.yaml")


def swapped(cfg: DictConfig, cell: ExpectedConfig) -> DictConfig:
    """`cfg` with the cell's nets in place of its own: what composing anew gives, forty times as fast."""
    assert cell.pair is not None
    cfg, shared = deepcopy(cfg), _shared()
    OmegaConf.set_struct(cfg, False)
    for group, name in zip(("teacher", "student"), cell.pair.split("-", 1), strict=True):
        node = config.load_node(group, name) or OmegaConf.create({"name": name, "lr_scale": 1.0})
        cfg[group] = OmegaConf.merge(shared[group], node)
    return cfg


def ours(cfg: DictConfig, key: str) -> Any:
    """The value of a key; `lr` is the rate that the student trains at."""
    if key == "lr":
        share = lr_share(config.plain(cfg, "schedule.lr_scales"), config.plain(cfg, "student.model"))
        return config.plain(cfg, "schedule.lr") * share * config.plain(cfg, "student.lr_scale")
    return config.plain(cfg, key)


def differences(cfg: DictConfig, cell: ExpectedConfig) -> dict[str, tuple[Any, Any]]:
    """Key: (ours, theirs) of all that differ."""
    found = {}
    for key, theirs in cell.values.items():
        here = ours(cfg, key)
        if not _equal(here, theirs):
            found[key] = (here, theirs)
    return found


def _equal(here: Any, theirs: Any) -> bool:
    numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (here, theirs)]
    return isclose(here, theirs, rel_tol=1e-9) if all(numbers) else bool(here == theirs)


def wrong(row: str) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The cells of a row that differ. Its first pair is composed, and the nets of the others are put in its place."""
    first, *others = ROWS[row]
    cfg = composed(*words(first), *pair_words(first))
    found = {first.name: differences(cfg, first)}
    found |= {cell.name: differences(swapped(cfg, cell), cell) for cell in others}
    return {name: each for name, each in found.items() if each}
