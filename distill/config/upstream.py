"""The training that a student has behind it: student.upstream, as a configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import did_you_mean, load_node, no_such, options, plain, settled
from distill.config.hashing import unmeasured
from distill.config.upstream_nodes import base_of, changes_of, has_upstream
from distill.run_folder import weights_file


def upstream_config(cfg: DictConfig) -> DictConfig | None:
    """The run that trains the student first, alone, with the run's seed; None where there is to be none.

    upstream.dataset: keys in place of the run's, or another data set's by its name; all of its training images are
    used. upstream.schedule: a name, or keys with one; of no epochs: no such run. Raises ValueError for what is
    not known.
    """
    spec = plain(cfg, "student").get("upstream")
    keys = set(spec) if isinstance(spec, dict) else set()
    if spec is not None and not {"schedule"} <= keys <= {"dataset", "schedule"}:
        raise ValueError(f"student.upstream is {spec}: give {{dataset: {{KEY: VALUE}}, schedule: NAME}}")
    if not has_upstream(spec):
        return None
    before = settled(cfg)
    before["dataset"] = _changed(before, "dataset", changes_of(spec, "dataset"))
    before["schedule"] = _changed(before, "schedule", changes_of(spec, "schedule"))
    before["student"] = OmegaConf.merge(before.student, {"upstream": None, "weights": None})
    before["method"], before["teacher"] = load_node("method", "none"), None
    before["evaluate"] = unmeasured(cfg)
    return before


def _changed(cfg: DictConfig, group: str, changes: dict[str, Any]) -> Any:
    base = base_of(cfg, group, changes)
    if base is None:
        raise ValueError(f"student.upstream: {no_such(group, str(changes.get('name')), options(group))}")
    if unknown := [str(key) for key in changes if key not in base]:
        hint = did_you_mean(unknown[0], [str(key) for key in base])
        raise ValueError(f"student.upstream: the {group} has no key '{unknown[0]}': {hint}")
    return OmegaConf.merge(base, changes)


def check_start(cfg: DictConfig) -> None:
    """Raise ValueError where a student is to start from two places at once, or from a file that is not there."""
    spec = plain(cfg, "student")
    before = upstream_config(cfg)
    weights = str(spec.get("weights") or "none")
    if weights != "none" and before is not None:
        raise ValueError("student.upstream and student.weights are two places to start from: give one")
    if weights not in ("none", "pretrained"):
        try:
            weights_file(weights)
        except ValueError as error:
            raise ValueError(f"student.weights={error}; or none, or pretrained") from error


def start_names(cfg: DictConfig) -> Iterable[str]:
    """What a result says of the student's start."""
    spec = plain(cfg, "student")
    if upstream_config(cfg) is not None:
        data = (spec["upstream"].get("dataset") or {}).items()
        yield "student.upstream=" + ",".join(f"{key}={value}" for key, value in data)
    if spec.get("weights") not in (None, "none"):
        yield f"student.weights={Path(str(spec['weights'])).name}"
