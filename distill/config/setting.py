"""What makes a run another task than its data set's plain one: fewer images, other views, few bits, another start."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

import distill.config.upstream as upstream
from distill.config.groups import plain

USUAL: dict[str, Any] = {"shots": None, "omit": [], "fraction": 1.0, "holdout": 0.0}


def setting(cfg: DictConfig) -> list[str]:
    """Such keys of a configuration with their values, sorted."""
    data, bits = plain(cfg, "dataset"), plain(cfg, "student").get("quantize")
    found = [f"dataset.{key}={data[key]}" for key, usual in USUAL.items() if data.get(key, usual) != usual]
    found += [f"dataset.views.{side}={view}" for side, view in (data.get("views") or {}).items() if view]
    found += ["dataset.labels=false"] if data.get("labels") is False else []
    found += [f"dataset.classes={data['classes']}"] if data.get("classes") else []
    found += upstream.start_names(cfg)
    return sorted(found + ([f"student.quantize={bits}"] if bits else []))
