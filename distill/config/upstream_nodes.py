"""What student.upstream says, and what stands there anyway: a data set and a schedule. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import load_node
from distill.config.nulls import canonical

WHOLE_SET = {"omit": [], "fraction": 1.0, "shots": None}  # of conf/dataset: no training image left out


def changes_of(spec: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The keys of a group that upstream gives; a schedule may be its name alone."""
    given = spec.get(group) or {}
    return dict(given) if isinstance(given, Mapping) else {"name": given}


def base_of(cfg: DictConfig, group: str, changes: Mapping[str, Any]) -> Any:
    """The node that keys of upstream change: the run's data set or another one, all of whose images are used, or a
    schedule's file; None where there is none of that name.
    """
    own = group == "dataset" and changes.get("name") in (None, cfg.dataset.name)
    base = cfg.dataset if own else load_node(group, str(changes.get("name")))
    if base is None or group == "schedule":
        return base
    return OmegaConf.merge(base, {key: WHOLE_SET[key] for key in WHOLE_SET if key in base})


def has_upstream(spec: Any) -> bool:
    """Whether student.upstream is a run: one of no epochs is none."""
    return spec is not None and changes_of(spec, "schedule").get("epochs") != 0


def told_upstream(cfg: DictConfig, spec: Any) -> Any:
    """student.upstream less what stands there anyway; None where it trains nothing."""
    if not isinstance(spec, Mapping) or not has_upstream(spec):
        return None
    told = {group: _told(cfg, group, changes_of(spec, group)) for group in ("dataset", "schedule")}
    if told["schedule"].keys() == {"name"}:
        told["schedule"] = told["schedule"]["name"]  # as it is written, where nothing else is
    return {key: value for key, value in {**spec, **told}.items() if value}


def _told(cfg: DictConfig, group: str, changes: dict[str, Any]) -> Any:
    base = base_of(cfg, group, changes)
    usual: Any = {} if base is None else OmegaConf.to_container(base, resolve=False)
    if group == "schedule" or changes.get("name") != cfg.dataset.name:
        usual.pop("name", None)
    return {key: value for key, value in changes.items() if key not in usual or _other(value, usual[key])}


def _other(value: Any, usual: Any) -> bool:
    return bool(canonical([value]) != canonical([usual]))
