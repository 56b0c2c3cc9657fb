"""`resolve`: from the composed configuration to the RunSpec, the one place where that is done.

Imports neither timm nor, but for a file of weights that it has not seen before, torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import distill.config.protocol as protocol
import distill.config.upstream as upstream
from distill.config.assistants import note_of_assistants
from distill.config.by_size import BY_SIZE, COUNTED, count_of, note_of_size
from distill.config.classes import note_of_classes
from distill.config.data_spec import DataSpec
from distill.config.departs import departs
from distill.config.folder_models import note_of_folder_model
from distill.config.groups import config_unchanged, load_node, plain, settled, taken
from distill.config.hashing import (
    content,
    from_paper,
    hashed_config,
    identity,
    reads,
    student_node,
    taps,
    teacher_config,
    teacher_specs,
)
from distill.config.milestones import note_of_milestones, note_of_rises
from distill.config.nulls import usually_measured
from distill.config.plugins import load_plugins
from distill.config.read_only import frozen
from distill.config.run_spec import EvaluateSpec, MachineSpec, MethodSpec, RunSpec, StudentSpec, TeacherSpec
from distill.config.schedule_spec import ScheduleSpec
from distill.config.setting import setting
from distill.config.teacher_nodes import Spec, label
from distill.content.memo import memoised

CAUTIONS = (note_of_classes, note_of_milestones, note_of_rises, note_of_assistants, note_of_folder_model)
AUTO = "auto"  # of teacher.weights: trained by this program, and kept


def resolve(cfg: DictConfig) -> RunSpec:
    """The run that a composed configuration describes. Raises ValueError for a value that is missing or cannot be."""
    load_plugins(cfg)  # in whichever process this is
    with config_unchanged(cfg):
        return _resolved(cfg)


def _resolved(cfg: DictConfig) -> RunSpec:
    hashed, specs = hashed_config(cfg), teacher_specs(cfg)
    who = identity(cfg, hashed)
    return RunSpec(
        hash=who["hash"],
        hashed=frozen(hashed),
        below=who["below"],
        folder=Path(who["folder"]),
        output=Path(str(plain(cfg, "output"))),
        seed=int(plain(cfg, "seed")),
        dataset=DataSpec.of({**plain(cfg, "dataset"), "content": content(cfg)}),
        student=_student(cfg),
        teachers=tuple(_teacher(cfg, spec) for spec in specs),
        teacher=label(specs) if specs else None,
        cache=_cache(cfg),
        method=_method(cfg),
        schedule=ScheduleSpec.of(plain(cfg, "schedule")),
        evaluate=_evaluate(cfg),
        machine=_machine(cfg),
        log_every=int(plain(cfg, "log_every")),
        save_minutes=float(plain(cfg, "save_minutes")),
        tracking=frozen(plain(cfg, "tracking")),
        setting=tuple(setting(cfg)),
        note=protocol.protocol_note(cfg) or note_of_size(cfg),
        cautions=tuple(filter(None, (note(cfg) for note in CAUTIONS))),
        alone=_alone(cfg),
        composed=frozen(_recorded(cfg)),
    )


def _recorded(cfg: DictConfig) -> Any:
    """The configuration as it was composed, what the data held, and how many images, where these chose the schedule."""
    composed: Any = OmegaConf.to_container(cfg, resolve=False)
    if (held := content(cfg)) is not None:
        composed["dataset"]["content"] = held
    if BY_SIZE in str(composed["schedule"]) and (images := count_of(cfg)) is not None:
        composed["dataset"][COUNTED] = images
    return composed


def _net(node: Spec) -> dict[str, Any]:
    mean, std = (None if node.get(key) is None else tuple(node[key]) for key in ("mean", "std"))
    found = {key: str(node[key]) for key in ("name", "model")}
    return {**found, "args": frozen(node.get("args") or {}), "lr_scale": float(node.get("lr_scale") or 1.0),
            "mean": mean, "std": std}  # fmt: skip


def _student(cfg: DictConfig) -> StudentSpec:
    node, before = student_node(cfg), upstream.upstream_config(cfg)
    weights = str(node.get("weights") or "none")
    return StudentSpec(
        **_net(node),
        pretrained=weights == "pretrained",
        weights=None if weights in ("none", "pretrained") else Path(weights),
        upstream=None if before is None else resolve(before),
        quantize=frozen(node["quantize"]) if node.get("quantize") else None,
    )


def _teacher(cfg: DictConfig, node: Spec) -> TeacherSpec:
    if not node.get("model"):
        name = plain(cfg, "method.name")
        raise ValueError(f"method={name} needs a teacher: pass teacher=<name>, for example teacher=resnet56.")
    weights = str(node["weights"])
    training = _training_of(cfg, node) if weights == AUTO else None
    return TeacherSpec(
        **_net(node),
        pretrained=weights == "pretrained",
        weights=weights,
        size=int(node["size"]) if node.get("size") else None,
        seed=int(node.get("seed") or 0),
        training=training,
        best=training is not None and node.get("epoch") == "best",
    )


def _training_of(cfg: DictConfig, node: Spec) -> RunSpec:
    """The run that trains a teacher, found once for all runs of a plan that share it."""
    own = {"student", "teacher"} | (set() if node.get("chain") or from_paper(cfg) else {"method"})
    return memoised(("training", _text(cfg, own), repr(node)), lambda: resolve(teacher_config(cfg, node)))


def _text(cfg: DictConfig, left_out: set[str]) -> str:
    """A configuration less some nodes, not resolved: equal ones are equal in all that the nodes do not say."""
    whole: Any = OmegaConf.to_container(cfg, resolve=False)
    return repr(({key: value for key, value in whole.items() if key not in {"hydra", *left_out}}, taken(cfg)))


def _method(cfg: DictConfig) -> MethodSpec:
    node = plain(cfg, "method")
    return MethodSpec(str(node["name"]), frozen(node), frozenset(taps(cfg)), frozenset(reads(cfg)), departs(node))


def _evaluate(cfg: DictConfig) -> EvaluateSpec:
    node = (plain(cfg, "evaluate") if "evaluate" in cfg else None) or {}  # records of before have none
    given = {key: value for key, value in node.items() if value is not None}
    return EvaluateSpec(**usually_measured(plain(cfg, "dataset")) | given)


def _machine(cfg: DictConfig) -> MachineSpec:
    asked = {key: _word(plain(cfg, key)) for key in ("device", "precision", "compile", "cuda_graphs", "sync_batchnorm")}
    asked["overlap"] = _word(plain(cfg, "overlap")) if "overlap" in cfg else "auto"  # older records lack it
    threads = plain(cfg, "threads")
    again = bool(plain(cfg, "grad_checkpointing")) if "grad_checkpointing" in cfg else False  # older records lack it
    threads = threads if threads == "auto" else int(threads) if threads else None
    return MachineSpec(**asked, threads=threads, grad_checkpointing=again)


def _cache(cfg: DictConfig) -> str:
    asked = (plain(cfg, "teacher") or {}).get("cache")
    return str(asked) if asked else "off"  # YAML reads a bare off as false


def _word(value: Any) -> str:
    """A setting that is a word, as it is spelled in YAML; auto where it is null."""
    return AUTO if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _alone(cfg: DictConfig) -> Path | None:
    """The folder of the `none` run of the same student, data, schedule, precision and seed; None of such a run."""
    if str(cfg.method.name) == "none":
        return None
    left_out = set() if from_paper(cfg) else {"method"}
    return memoised(("alone", _text(cfg, left_out)), lambda: _place_alone(cfg))


def _place_alone(cfg: DictConfig) -> Path:
    alone = settled(cfg)
    for key in ("schedule", "dataset") if from_paper(cfg) else ():  # this method's protocol: none has one of its own
        alone[key] = plain(cfg, key)
    alone["method"] = load_node("method", "none")
    return Path(identity(alone)["folder"])
