"""What `${...}` stands for in the YAML files:

`${run_folder:}` and `${run_folder:below}`
    the run's folder, with and without `output` in front.
`${by_pair:DEFAULT,{TEACHER-STUDENT: VALUE, ...}}`
    for conf/tuned: the value of the run's pair (`<teacher.name>-<student.name>`), DEFAULT for any other.
`${by_method:DEFAULT,{METHOD: VALUE, ...}}`
    for conf/experiment and a protocol's teachers: the value of the run's method; null is as good as no key at all.
`${finetune:KEY}`
    for conf/schedule/finetune.yaml: what the number of training images chooses (distill.config.by_size).
`${by_dataset:KEY,{NAME: VALUE, ...}}`
    for conf/schedule: the value for a data set, that of its own file for any other (distill.config.protocol).
`${paper:schedule.KEY}` and `${paper:dataset.KEY}`
    for conf/schedule/paper.yaml: the value of the method's own protocol for the data set (distill.config.protocol).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import omegaconf
from omegaconf import DictConfig, OmegaConf

from distill.config.groups import plain
from distill.config.hashing import has_teacher, identity, teacher_specs
from distill.config.teacher_nodes import label


def register() -> None:
    """Make the resolvers known to OmegaConf; calling it again does no harm."""
    from distill.config.by_size import chosen_by_size
    from distill.config.help_page import group_options  # these read this module
    from distill.config.peer_rates import peer_rates
    from distill.config.protocol import by_dataset
    from distill.config.protocol import protocol_value as paper_value

    resolvers: dict[str, Any] = {"run_folder": _run_folder, "by_pair": _by_pair, "by_method": _by_method}
    resolvers |= {"by_dataset": by_dataset, "by_value": _by_value}
    resolvers |= {"group_options": group_options, "peer_rates": peer_rates, "paper": paper_value}
    resolvers["finetune"] = chosen_by_size
    renamed = omegaconf.__version__ >= "2.4"  # the old name warns; before, the new one differs
    add: Any = OmegaConf.register_resolver if renamed else OmegaConf.register_new_resolver
    for name, resolver in resolvers.items():
        add(name, resolver, replace=True)


def _run_folder(part: str = "folder", *, _root_: DictConfig) -> str:
    return identity(_root_)[part]


def _by_pair(default: Any, table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    return table.get(f"{_last_teacher(_root_)}-{plain(_root_, 'student.name')}", default)


def _by_method(default: Any, table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    return table.get(str(_root_.method.name), default)


def _by_value(value: Any, default: Any, table: Mapping[str, Any]) -> Any:
    return {str(key): found for key, found in table.items()}.get(str(value), default)


def _last_teacher(cfg: DictConfig) -> str:
    """The name that tables of pairs know the teacher by: at the end of a chain, its last net."""
    if not has_teacher(cfg):
        return str(plain(cfg, "teacher.name"))
    return label([{**spec, "chain": []} for spec in teacher_specs(cfg)])
