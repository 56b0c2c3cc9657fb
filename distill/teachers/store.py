"""Teachers: trained once by this program and found again, imported from a file, or taken from timm."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.config import DataSpec, RunSpec, TeacherSpec, canonical
from distill.config.data_spec import AUGMENTING
from distill.config.needs import reads_of_classifiers
from distill.content.state_file import sum_of
from distill.data import Data
from distill.engine.evaluate import agreement, predict, scores
from distill.files import best_effort, read_mapping, remove_temporary, write_json
from distill.models import FeatureNet, load_weights
from distill.parts.peers import mean_log_probability
from distill.result import as_number, as_percent
from distill.run_folder import RunFolder
from distill.start import own_constants
from distill.teachers.bundled import restore
from distill.teachers.making import has_published_constants, make_teacher, recorded_classes

log = logging.getLogger(__name__)


@dataclass
class Teacher:
    """A frozen net and what is known of it."""

    net: FeatureNet
    accuracy: float | None  # top-1 in percent, on the evaluation split of this run's data; None: no classifier of it
    seen: int  # images it was measured on
    origin: str  # "trained in <folder>", "file <path>", "timm", "random"
    fingerprint: str  # of the net
    _said: tuple[Data, Tensor, Tensor] | None = field(default=None, repr=False)

    def predictions(self, data: Data, autocast: Any) -> tuple[Tensor, Tensor]:
        """Logits [M,K] and labels [M] on what is evaluated; asked for once by all runs that share the teacher."""
        if self._said is None or self._said[0] is not data:
            self._said = (data, *predict(self.net, data.evaluation(512, "teacher", _size(self.net)), autocast))
        return self._said[1:]


def get_teachers(spec: RunSpec, data: Data, device: torch.device, train: Callable[[RunSpec], None]) -> list[Teacher]:
    """Return the run's teachers, frozen, in eval mode, measured; `train(spec)` trains one that is missing.

    Raises ValueError where the method reads logits, for a teacher whose classes are not the data's, or whose accuracy
    is that of guessing.
    """
    return [_teacher(spec, teacher, data, device, train) for teacher in spec.teachers]


def _teacher(
    run: RunSpec, spec: TeacherSpec, data: Data, device: torch.device, train: Callable[[RunSpec], None]
) -> Teacher:
    net, origin = _make(run, spec, data, train)
    net.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    own_constants(net, spec, data.info.for_teacher, published=has_published_constants(net, spec))
    fingerprint = net.fingerprint()
    if not net.num_classes:
        own = f", on its own {net.size} pixels" if net.resizes else ""
        log.info("teacher %s (%s): %d features of an image%s, no logits", spec.name, origin, net.embedding_dim, own)
        return Teacher(net, None, 0, origin, fingerprint)
    _tell_other_names(spec, data.info.class_names)
    teacher = Teacher(net, *_accuracy(net, fingerprint, data, run), origin, fingerprint)
    log.info("teacher %s (%s): %.2f %% on %s", spec.name, teacher.origin, teacher.accuracy, data.info.name)
    if reads_of_classifiers(run.method.node):
        _refuse_guessing(teacher, spec, data)
    return teacher


def _tell_other_names(spec: TeacherSpec, ours: list[str]) -> None:
    """Warn of a teacher that calls classes otherwise than the data: they may be the same ones, or others."""
    theirs = recorded_classes(spec)
    if pair := next(((one, other) for one, other in zip(theirs, ours, strict=False) if one != other), None):
        log.warning("teacher %s: its class '%s' is taken for '%s' of the data, which is at its place", spec.name, *pair)


def compare_teachers(teachers: list[Teacher], student: Tensor | None, data: Data, autocast: Any) -> dict[str, Any]:
    """What a result holds of the teachers, beside the student's logits [M,K]: accuracy, origin, agreement.

    Teachers without a classifier of these classes have neither accuracy nor agreement. Several teachers count as the
    mean of their probabilities, and are listed one by one as well.
    """
    if not teachers:
        return {"teacher_accuracy": None, "teacher_origin": None}
    if student is None or any(teacher.accuracy is None for teacher in teachers):
        return _without_logits(teachers)
    asked = (teacher.predictions(data, autocast) for teacher in teachers)
    logits, labels = zip(*asked, strict=True)
    if len(teachers) == 1:
        first = teachers[0]
        return {"teacher_accuracy": first.accuracy, "teacher_origin": first.origin, **agreement(student, logits[0])}
    mean = mean_log_probability(logits)
    each = [{"model": t.net.name, "accuracy": t.accuracy, "origin": t.origin} for t in teachers]
    accuracy = scores(mean, labels[0])["accuracy"]
    return {"teacher_accuracy": accuracy, "teacher_origin": "ensemble", "teachers": each, **agreement(student, mean)}


def _without_logits(teachers: list[Teacher]) -> dict[str, Any]:
    """What a result holds of teachers that cannot be compared by their logits."""
    if len(teachers) == 1:
        return {"teacher_accuracy": teachers[0].accuracy, "teacher_origin": teachers[0].origin}
    each = [{"model": t.net.name, "accuracy": t.accuracy, "origin": t.origin} for t in teachers]
    return {"teacher_accuracy": None, "teacher_origin": "ensemble", "teachers": each}


def _size(net: FeatureNet) -> int | None:
    return net.size if net.resizes else None


def _make(
    run: RunSpec, spec: TeacherSpec, data: Data, train: Callable[[RunSpec], None]
) -> tuple[FeatureNet, str]:
    net = make_teacher(run, spec, data.info.for_teacher, pretrained=True)
    if spec.pretrained:
        return net, "timm"
    if spec.weights == "none":
        return net, "random"
    if spec.training is None:
        return net, f"file {spec.weights}"
    folder = RunFolder(spec.training.folder)
    if not folder.marked and not restore(spec.training, best=spec.best):
        log.info("teacher %s is not stored yet: training it in %s", spec.name, folder)
    train(spec.training)
    load_weights(net, own_weights(folder, best=spec.best))
    return net, f"trained in {folder}{', best epoch' if spec.best else ''}"


def own_weights(folder: RunFolder, *, best: bool = False) -> Path:
    """The weights of a finished run, of its last epoch or its best. Raises ValueError where they are not those that its
    result was measured with, or are not there.
    """
    file, key = (folder.best, "best_weights") if best else (folder.student, "weights")
    if best and not file.is_file():
        raise ValueError(f"{folder} does not hold its best epoch's weights: delete it, and it is trained anew")
    measured = folder.read_result().document.get(key)
    if measured is not None and measured != sum_of(file):
        raise ValueError(f"{file} is not what its run measured: delete {folder}, and it is trained anew")
    return file


def _accuracy(net: FeatureNet, fingerprint: str, data: Data, run: RunSpec) -> tuple[float, int]:
    """Measure in fp32, once: accuracy and images are kept under the hash of weights, constants and data."""
    digest = hashlib.sha256(f"{fingerprint}/{_as_evaluated(run.dataset)}/{data.info.for_teacher.size}".encode())
    known = run.output / data.info.name / "teachers" / f"{digest.hexdigest()[:16]}.json"
    stored = read_mapping(known)
    measured, images = as_percent(stored.get("accuracy")), as_number(stored.get("images"))
    if measured is not None and images and stored.get("sum") == _sum(known, measured, int(images)):
        return measured, int(images)
    if known.exists():
        log.warning("%s is damaged, or of a version before its checksum: the teacher is measured again", known)
    remove_temporary(known.parent, shared=True)
    logits, labels = predict(net, data.evaluation(256, "teacher", _size(net)))
    accuracy = scores(logits, labels)["accuracy"]
    found = {"model": net.name, "accuracy": accuracy, "images": len(labels), "sum": _sum(known, accuracy, len(labels))}
    best_effort(lambda: write_json(known, found))
    return accuracy, len(labels)


def _as_evaluated(spec: DataSpec) -> str:
    """What says which images are evaluated and how they are seen: every key but those of augmentation and place."""
    left_out = {"root", "workers", *AUGMENTING}
    keys = {each.name: getattr(spec, each.name) for each in fields(spec) if each.name not in left_out}
    return json.dumps(canonical(keys), sort_keys=True)


def _sum(file: Path, accuracy: float, images: int) -> str:
    """The checksum of what is kept of a teacher."""
    return hashlib.sha256(f"{file.stem}/{accuracy!r}/{images}".encode()).hexdigest()[:16]


def _refuse_guessing(teacher: Teacher, spec: TeacherSpec, data: Data) -> None:
    classes = data.info.num_classes
    chance = 1 / classes
    limit = 100 * (chance + 3 * (chance * (1 - chance) / teacher.seen) ** 0.5)
    if teacher.accuracy is not None and teacher.accuracy <= limit and teacher.origin != "random":
        raise ValueError(
            f"teacher {spec.name} ({teacher.origin}) is right in {teacher.accuracy:.2f} % of {data.info.name}, "
            f"which is guessing among {classes} classes: check teacher.weights, teacher.mean and teacher.std."
        )
