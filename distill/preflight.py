"""What is found out before anything is trained: whether nets can be made and weights be had, and the method fits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import distill.start as start
from distill.config import (
    DataSpec,
    RunSpec,
    StudentSpec,
    TeacherSpec,
    canonical,
    instantiate,
    load_node,
    thawed,
)
from distill.config.check import check_maps
from distill.content.data_sets import KNOWN_SETS
from distill.content.fingerprint import is_present
from distill.content.index import indexed, train_indexed
from distill.content.listing import VAL, train_listed
from distill.content.memo import memoised
from distill.data import DataInfo, load_data
from distill.data.dataset import check_classes, check_kind, data_info
from distill.data.modality import views_of
from distill.data.supposed import supposed_source
from distill.engine.registered import check_registered
from distill.engine.synced import synchronizable_norms
from distill.method import Method, Source
from distill.models import FeatureNet
from distill.models import build as build_net
from distill.models.prototype import Prototype, shaped, without_memory
from distill.models.quant import quantize_as
from distill.run_folder import RunFolder
from distill.teachers.making import make_teacher

_MOST = 16  # nets without memory that are kept for the next run of a plan: their modules take some
CHOOSING = ("classes", "omit", "shots", "fraction", "holdout", "value_range")  # keys of dataset, of its images
SHAPING = ("size", "resize", "num_classes", "in_chans", "pad", "pad_mode")  # and that must go with what they are
_prototypes: dict[tuple[Any, ...], Prototype] = {}
_chosen_data: dict[str, DataInfo] = {}
log = logging.getLogger(__name__)


def trains_first(spec: RunSpec) -> bool:
    """Whether something has to be trained before the run itself: a teacher, or the student for the first time."""
    needed = [teacher.training for teacher in spec.teachers] + [spec.student.upstream]
    return any(each is not None and not RunFolder(each.folder).done for each in needed)


def check_fit(
    spec: RunSpec, info: DataInfo, source: Source | None = None, *, on_meta: bool = False, over_all: bool = False
) -> None:
    """Raise ValueError where nets, weights, method and data do not go together, and so would the run once it begins.

    Nets and method are made and forgotten again; the global random state is left alone. source: of the data, or
    one like it. on_meta: on the meta device where that can be, which costs more to import than a few nets to make.
    over_all: BatchNorms are to see the whole batch of several processes.
    """
    spec.evaluate.check(info.num_train if info.num_classes else None)
    with torch.random.fork_rng(devices=[]):
        if on_meta and not (spec.student.weights or _of_files(spec)):
            try:
                with without_memory():
                    _made(spec, info, source, over_all)
                return
            except (RuntimeError, NotImplementedError, TypeError) as error:  # what has no meaning without values
                log.debug("not to be made without memory: %s", error)
        _made(spec, info, source, over_all)


def refusal_of_command(spec: RunSpec) -> str:
    """Why a run cannot be, or one that has to be before it; nothing where they can. Nothing is trained or fetched."""
    try:
        _check_command(spec)
    except ValueError as error:
        return str(error)
    return ""


def _check_command(spec: RunSpec) -> None:
    check_files(spec.dataset)
    check_weights(spec)
    if not spec.schedule.rule and (info := _chosen(spec.dataset) or supposed(spec.dataset)) is not None:
        options = {"batch_size": spec.schedule.batch_size, "seed": spec.seed, **spec.schedule.of_batches}
        check_fit(spec, info, supposed_source(spec.dataset, info, **options), on_meta=True)
    for needed in [teacher.training for teacher in spec.teachers] + [spec.student.upstream]:
        if needed is not None and not RunFolder(needed.folder).done:
            memoised(("trained first", needed.hash), partial(_check_command, needed))


def _chosen(spec: DataSpec) -> DataInfo | None:
    """What is known of data of which a part is chosen, or that are given another shape: loaded, where they lie here."""
    usual: Any = load_node("dataset", spec.kind) or {}
    nulls = {each.name: each.default for each in fields(DataSpec)}  # what null stands for
    keys = [key for key in (CHOOSING if spec.kind == "folder" else (*CHOOSING, *SHAPING)) if key in usual]
    defaults = {key: nulls[key] if usual[key] is None else usual[key] for key in keys}
    same = all(canonical(getattr(spec, key)) == canonical(value) for key, value in defaults.items())
    if same or not (spec.kind == "folder" or is_present(spec.kind, spec.root)):
        return None
    if (key := repr(spec)) not in _chosen_data:
        _chosen_data[key] = load_data(spec).info
    return _chosen_data[key]


def check_files(spec: DataSpec) -> None:
    """Raise ValueError where images of a folder are missing or damaged, or classes differ: see `content.index`."""
    if spec.kind == "folder":
        found = [train_indexed(spec.root, spec.workers, spec.labels)]
        if not spec.holdout and (spec.labels or (spec.root / VAL).is_dir()):
            found.append(indexed(spec.root / VAL, spec.workers))
        for index in found:
            rows = index.whole(spec.damaged)
            if "depth" in spec.views.values():
                from distill.data.depth import with_whole_depth
                from distill.data.used_images import UsedImages

                with_whole_depth(UsedImages(index, rows, index.listing.labels[rows]), spec)
        classes = [index.listing.classes for index in found]
        if len(classes) > 1 and spec.labels:
            from distill.data.folder_loading import same_classes  # imports Pillow

            same_classes(spec.root, *classes)
        if spec.labels:
            check_classes(spec, classes[0])
        return
    check_kind(spec.kind)
    if spec.kind == "tinyimagenet" and not (spec.root / "tiny-imagenet-200").is_dir():
        raise ValueError(f"{spec.root}/tiny-imagenet-200 is missing, and cannot be downloaded: set dataset.root")


def check_weights(spec: RunSpec) -> None:
    """Raise ValueError where pretrained weights of the run, or of what it trains first, cannot be had."""
    from distill.models.pretrained import check_pretrained

    if RunFolder(spec.folder).done:
        return
    if spec.student.pretrained:
        check_pretrained(spec.student.model, "student.weights")
    for teacher in spec.teachers:
        if teacher.pretrained:
            check_pretrained(teacher.model, "teacher.weights")
        elif teacher.training is not None and not RunFolder(teacher.training.folder).done:
            if teacher.training.student.pretrained:
                check_pretrained(teacher.model, "teacher.start")
            check_weights(replace(teacher.training, student=replace(teacher.training.student, pretrained=False)))
    if spec.student.upstream is not None:
        check_weights(spec.student.upstream)


def supposed(spec: DataSpec) -> DataInfo | None:
    """What is known of data that are not loaded: as many classes and images as there will be, in any order."""
    count, classes = KNOWN_SETS[spec.kind].images if spec.kind in KNOWN_SETS else 1000, spec.num_classes
    names: list[str] = []
    if spec.kind == "folder":
        listing = train_listed(spec.root, spec.labels)
        count, classes, names = len(listing.names), len(listing.classes), listing.classes
    classes = classes if spec.labels else 1  # of which data_info tells none
    if classes is None:
        return None
    classes = len(spec.classes) if spec.classes and spec.labels else classes
    labels = np.arange(count, dtype=np.int64) % classes
    known = len(names) == classes  # others are numbered, by names that none has
    names = names if known else [f"class {k}" for k in range(classes)]
    info = data_info(spec, labels, names, held_out=bool(spec.holdout))
    return views_of(spec.views, info, depth="depth" in spec.views.values())[0]


def _of_files(spec: RunSpec) -> bool:
    return any(_file(teacher) is not None for teacher in spec.teachers)


def _file(teacher: TeacherSpec) -> str | None:
    """The file that a teacher's weights come from."""
    return None if teacher.training or teacher.pretrained or teacher.weights == "none" else teacher.weights


def _made(spec: RunSpec, info: DataInfo, source: Source | None, over_all: bool) -> None:
    """Make the nets and the method, with the weights that are there already."""
    there = torch.get_default_device().type != "meta"  # else no weights are loaded
    how: dict[str, Any] = {"args": start.student_arguments(spec), "inits": start.student_inits(spec)}
    student = _net(spec.student, info, spec.seed, spec.student.pretrained and there, **how)
    start.check_recipe(student, spec)
    if spec.machine.grad_checkpointing:
        start.recompute(student)
    if spec.student.weights:
        start.begin(student, Path(spec.student.weights), False)
    _check_upstream(student, spec.student.upstream)
    if spec.student.quantize:
        quantize_as(student, spec.student.quantize)
    teachers = [_taught_by(spec, each, info) for each in spec.teachers]
    for net in teachers:
        net.requires_grad_(False)
    check_maps(spec.method.name, spec.method.taps, [student.name, *(net.name for net in teachers)])
    method = instantiate(spec.method.node, student, teachers, replace(info))
    check_registered(method)
    if over_all:
        synchronizable_norms(method)
    _check_updates(method, spec)
    if source is not None:
        _check_views(method, source)


def _check_upstream(student: FeatureNet, before: RunSpec | None) -> None:
    """Raise ValueError where what the student is trained on first leaves no start for it."""
    if before is None or before.schedule.rule or (info := supposed(before.dataset)) is None:
        return
    how: dict[str, Any] = {"args": start.student_arguments(before), "inits": start.student_inits(before)}
    start.check_trunk(_net(before.student, info, before.seed, False, **how), student)


def _check_views(method: Method, source: Source) -> None:
    """Raise ValueError for data that a phase cannot see as it will. What asks the method's nets first is left out."""
    for phase in method.phases():
        if phase.source is not None and getattr(phase.source, "__self__", None) is not method:
            phase.source(source)


def _check_updates(method: Method, spec: RunSpec) -> None:
    """Raise ValueError where an update cannot have the schedule's options beside its own, or its own way to step."""
    schedule = replace(spec.schedule, lr=spec.schedule.rate_of(spec.student.model, spec.student.lr_scale))
    for overrides, update in ((phase.schedule, each) for phase in method.phases() for each in phase.updates):
        own = schedule.merged(overrides).merged(update.optimizer)
        with suppress(RuntimeError):  # without memory there is nothing to step on
            if (make := update.stepper) is not None:
                make(update.trains, own)


def random_nets(spec: RunSpec, info: DataInfo) -> tuple[FeatureNet, list[FeatureNet]]:
    """The run's student and teachers with random weights, for what depends on their shapes alone."""
    student = _net(spec.student, info, spec.seed, False)
    return student, [_taught_by(spec, teacher, info) for teacher in spec.teachers]


def _taught_by(spec: RunSpec, teacher: TeacherSpec, info: DataInfo) -> FeatureNet:
    if teacher.training and not teacher.size:
        return _net(teacher, info.for_teacher, teacher.seed, False, inits=start.student_inits(teacher.training))
    return make_teacher(spec, teacher, info.for_teacher, pretrained=False)


def _net(
    spec: StudentSpec | TeacherSpec, info: DataInfo, seed: int, pretrained: bool, *, args: dict[str, Any] | None = None,
    inits: Mapping[str, str] | None = None,
) -> FeatureNet:  # fmt: skip
    how: dict[str, Any] = {"in_chans": info.in_chans, "size": info.size, "inits": inits}
    how["args"] = thawed(spec.args) if args is None else args
    make = partial(build_net, spec.model, info.num_classes, **how, pretrained=pretrained, seed=seed)
    if torch.get_default_device().type != "meta":
        return make()
    key = (spec.model, info.num_classes, str(how))
    if key not in _prototypes:
        if len(_prototypes) >= _MOST:
            _prototypes.clear()
        _prototypes[key] = Prototype(shaped(make, spec.model))
    return _prototypes[key].copy()  # methods change what they are given
