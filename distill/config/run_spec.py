"""A run, resolved once: `resolve` makes of the composed configuration a RunSpec, which is all that a run reads.

What trains a teacher, or a student first, is a RunSpec as well and lies within. Imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config import protocol, upstream
from distill.config.data_spec import DataSpec
from distill.config.departs import departs
from distill.config.groups import load, plain
from distill.config.hashing import (
    content,
    from_paper,
    identity,
    reads,
    science,
    student_node,
    taps,
    teacher_config,
    teacher_specs,
)
from distill.config.plugins import load_plugins
from distill.config.read_only import frozen
from distill.config.setting import setting
from distill.config.teacher_nodes import Spec, label

AUTO = "auto"  # of teacher.weights: trained by this program, and kept


@dataclass(frozen=True)
class NetSpec:
    """A net by its name in conf/, and how it is built. mean, std: of the images it was trained on, None: the data's."""

    name: str
    model: str
    args: Mapping[str, Any]
    lr_scale: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    pretrained: bool  # weights of timm's


@dataclass(frozen=True)
class StudentSpec(NetSpec):
    """weights: a file to start from; upstream: the run that trains it first; quantize: bits seen in training."""

    weights: Path | None
    upstream: RunSpec | None
    quantize: Mapping[str, Any] | None


@dataclass(frozen=True)
class TeacherSpec(NetSpec):
    """weights: auto, pretrained, none or a file; training: the run whose student it is, for auto."""

    weights: str
    seed: int
    training: RunSpec | None


@dataclass(frozen=True)
class MethodSpec:
    """A method by its name in conf/method, and its node there, of which `build` makes it.

    taps: what it reads of its nets' outputs; reads: what of its teachers', nothing where it has none.
    departs: what it does otherwise than its paper.
    """

    name: str
    node: Mapping[str, Any]
    taps: frozenset[str]
    reads: frozenset[str]
    departs: str | None

    @property
    def convention(self) -> dict[str, Any]:
        """Its loss weights, as many as it has."""
        return {key: self.node[key] for key in ("ce", "kd", "weight") if key in self.node}

    @property
    def temperature(self) -> float | None:
        """Of its soft targets, where it has one."""
        return self.node.get("temperature")


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule. settings: all of its keys, of which each optimiser takes its own and a phase may change some."""

    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def epochs(self) -> int:
        return int(self.settings["epochs"])

    @property
    def batch_size(self) -> int:
        return int(self.settings["batch_size"])

    @property
    def mixup(self) -> float:
        """Alpha of MixUp; 0: none."""
        return float(self.settings.get("mixup") or 0.0)

    @property
    def label_smoothing(self) -> float:
        return float(self.settings.get("label_smoothing") or 0.0)

    @property
    def drawn(self) -> int:
        """Batches of an epoch whose images are drawn with replacement; 0: every image once."""
        return int(self.settings.get("drawn") or 0)

    @property
    def last_batch(self) -> str:
        """What becomes of the images that an epoch's last batch lacks, see data.arrays."""
        return str(self.settings.get("last_batch") or "auto")

    @property
    def zero_head(self) -> bool:
        """Whether the student's classifier starts at zero."""
        return bool(self.settings.get("zero_head"))


@dataclass(frozen=True)
class MachineSpec:
    """What it is computed on, and how: as asked for, which `runtime` and `engine` make out on the machine itself."""

    device: str
    precision: str
    compile: str
    cuda_graphs: str
    threads: int | None


@dataclass(frozen=True)
class RunSpec:
    """All that a run is told. `composed` is the record of the configuration, for tracking.json and W&B, as it was
    composed; nothing is read from it.
    """

    hash: str
    hashed: Mapping[str, Any]  # all that changes the result, but for the seed
    below: str  # the part of `folder` below `output`
    folder: Path
    output: Path
    seed: int
    dataset: DataSpec
    student: StudentSpec
    teachers: tuple[TeacherSpec, ...]
    teacher: str | None  # all of them as one name
    cache: str  # teacher.cache
    method: MethodSpec
    schedule: ScheduleSpec
    machine: MachineSpec
    log_every: int
    save_minutes: float
    tracking: Mapping[str, Any]
    setting: tuple[str, ...]  # what makes it another task than its data set's plain one
    note: str | None  # on the protocol of the method's paper
    alone: Path | None  # where the same student is trained without a teacher
    composed: Mapping[str, Any]


def resolve(cfg: DictConfig) -> RunSpec:
    """The run that a composed configuration describes. Raises ValueError for a value that is missing or cannot be."""
    load_plugins(cfg)  # in whichever process this is
    who, specs = identity(cfg), teacher_specs(cfg)
    return RunSpec(
        hash=who["hash"],
        hashed=frozen(science(cfg)),
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
        schedule=ScheduleSpec(frozen(plain(cfg, "schedule"))),
        machine=_machine(cfg),
        log_every=int(plain(cfg, "log_every")),
        save_minutes=float(plain(cfg, "save_minutes")),
        tracking=frozen(plain(cfg, "tracking")),
        setting=tuple(setting(cfg)),
        note=protocol.note(cfg),
        alone=_alone(cfg),
        composed=frozen(_recorded(cfg)),
    )


def _recorded(cfg: DictConfig) -> Any:
    """The configuration as it was composed, and what the data held."""
    composed: Any = OmegaConf.to_container(cfg, resolve=False)
    if (held := content(cfg)) is not None:
        composed["dataset"]["content"] = held
    return composed


def _net(node: Spec) -> dict[str, Any]:
    mean, std = (None if node.get(key) is None else tuple(node[key]) for key in ("mean", "std"))
    found = {key: str(node[key]) for key in ("name", "model")}
    return {**found, "args": frozen(node.get("args") or {}), "lr_scale": float(node.get("lr_scale") or 1.0),
            "mean": mean, "std": std}  # fmt: skip


def _student(cfg: DictConfig) -> StudentSpec:
    node, before = student_node(cfg), upstream.upstream_config(cfg)
    weights = Path(str(node["weights"])) if node.get("weights") else None
    return StudentSpec(
        **_net(node),
        pretrained=bool(node.get("pretrained")),
        weights=weights,
        upstream=None if before is None else resolve(before),
        quantize=frozen(node["quantize"]) if node.get("quantize") else None,
    )


def _teacher(cfg: DictConfig, node: Spec) -> TeacherSpec:
    if not node.get("model"):
        name = plain(cfg, "method.name")
        raise ValueError(f"method={name} needs a teacher: pass teacher=<name>, for example teacher=resnet56.")
    weights = str(node["weights"])
    training = resolve(teacher_config(cfg, node)) if weights == AUTO else None
    return TeacherSpec(
        **_net(node),
        pretrained=weights == "pretrained",
        weights=weights,
        seed=int(node.get("seed") or 0),
        training=training,
    )


def _method(cfg: DictConfig) -> MethodSpec:
    node = plain(cfg, "method")
    return MethodSpec(str(node["name"]), frozen(node), frozenset(taps(cfg)), frozenset(reads(cfg)), departs(node))


def _machine(cfg: DictConfig) -> MachineSpec:
    asked = {key: _word(plain(cfg, key)) for key in ("device", "precision", "compile", "cuda_graphs")}
    threads = plain(cfg, "threads")
    return MachineSpec(**asked, threads=int(threads) if threads else None)


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
    alone = cfg.copy()
    OmegaConf.set_struct(alone, False)
    for key in ("schedule", "dataset") if from_paper(cfg) else ():  # this method's protocol: none has one of its own
        alone[key] = plain(cfg, key)
    alone["method"] = load("method", "none")
    return Path(identity(alone)["folder"])
