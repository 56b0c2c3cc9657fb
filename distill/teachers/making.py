"""Making a teacher's net: a classifier of the data's classes, or a backbone without one, at its own image size.

A net from timm or from a file is asked for its features alone where it knows other classes, or none, and where the data
has no labels. It then sees images as it was trained to: at its own size, by its own mean and std.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.config import RunSpec, TeacherSpec, thawed
from distill.config.needs import advice, reads_of_classifiers
from distill.content.state_file import State, read_state
from distill.data import DataInfo
from distill.models import FeatureNet, build, load_weights
from distill.models.families import CONSTRUCTORS
from distill.models.weights import mismatch
from distill.run_folder import record_of
from distill.start import head_names


def make_teacher(run: RunSpec, spec: TeacherSpec, info: DataInfo, *, pretrained: bool) -> FeatureNet:
    """A teacher's net, with the weights of its file if it has one; those of a trained one are its maker's to load.

    info: the data as teachers see it. pretrained: whether timm's weights are loaded where they are asked for.
    Raises ValueError for a file that does not fit, and for a backbone whose method reads logits.
    """
    classes, other = _classes_of(spec, info)
    made, why = _from_file(spec, info, classes) if _is_file(spec) else (_build(spec, info, classes, pretrained), "")
    why = f" ({other})" if other else why
    if not made.num_classes and (what := reads_of_classifiers(run.method.node)):
        named = f"{info.name}'s {info.num_classes} classes" if info.num_classes else "the images, which have no labels"
        remedy = advice(run.method.node, labels=bool(info.num_classes))
        if info.num_classes and spec.weights not in ("auto", "none"):
            remedy += f", or fine-tune the teacher first, teacher.weights=auto teacher.start={spec.weights}"
        raise ValueError(
            f"method={run.method.name} reads {what}, and teacher {spec.name}{why} is no classifier of {named}: {remedy}"
        )
    made.resizes = made.size != info.size
    return made


def has_published_constants(net: FeatureNet, spec: TeacherSpec) -> bool:
    """Whether timm's mean and std of a model's images hold for weights of a file: those of a backbone are its own, but
    where a run of ours has left them, which recorded its own.
    """
    return not net.num_classes and _is_timms(spec) and spec.weights != "none" and not _seen_by(spec)


def _is_file(spec: TeacherSpec) -> bool:
    return not (spec.training or spec.pretrained or spec.weights == "none")


def _is_timms(spec: TeacherSpec) -> bool:
    return spec.model not in CONSTRUCTORS


def _classes_of(spec: TeacherSpec, info: DataInfo) -> tuple[int, str]:
    """The classes that the teacher's classifier is built for: the data's, or 0, and why where names tell. A file may
    hold another one still.
    """
    file_classes: Any = spec.args.get("num_classes")
    if file_classes is None and spec.pretrained and _is_timms(spec):
        file_classes = _published(spec).get("num_classes")
    if file_classes not in (None, info.num_classes):
        return 0, ""
    other = _in_other_order(recorded_classes(spec), info)
    return (0 if other else info.num_classes), other


def recorded_classes(spec: TeacherSpec) -> list[str]:
    """What a teacher that comes with its classes' names calls them, in the order of its logits; else nothing."""
    if spec.pretrained:
        found = _published(spec).get("label_names") if _is_timms(spec) else None
    else:
        found = record_of(spec.weights).get("classes") if _is_file(spec) else None
    return list(map(str, found)) if isinstance(found, (list, tuple)) else []


def _in_other_order(names: list[str], info: DataInfo) -> str:
    """Why a classifier of as many classes is none of the data's, for it has one of theirs at another place; nothing
    where it has not: names that the data do not have may be others for the same classes.
    """
    places = {name: place for place, name in enumerate(info.class_names)}
    for place, name in enumerate(names if len(names) == len(places) else ()):
        if places.get(name, place) != place:
            return f"its class {place} is {name}, which is class {places[name]} of {info.name}"
    return ""


def _published(spec: TeacherSpec) -> dict[str, Any]:
    from distill.models.timm_factory import published_cfg  # imports timm, which takes seconds

    return published_cfg(spec.model)


def teacher_size(spec: TeacherSpec, size: int, classes: int) -> int:
    """The side of the images that it takes: as asked for, its own, or the data's, `size`."""
    asked = spec.size or (None if spec.training else spec.args.get("img_size"))
    if asked or classes or spec.weights in ("none", "auto") or not _is_timms(spec):
        return int(asked or size)
    return int(_seen_by(spec).get("size") or (_published(spec).get("input_size") or (size,))[-1])


def _seen_by(spec: TeacherSpec) -> Mapping[str, Any]:
    """What the run recorded of its images (size, mean, std) that has left a teacher's file; empty for others."""
    return (record_of(spec.weights).get("input") or {}) if _is_file(spec) else {}


def _build(spec: TeacherSpec, info: DataInfo, classes: int, pretrained: bool = False) -> FeatureNet:
    args = {key: value for key, value in thawed(spec.args).items() if key != "num_classes"}
    return build(
        spec.model, classes, in_chans=info.in_chans, size=teacher_size(spec, info.size, classes),
        pretrained=pretrained and spec.pretrained, args=args, seed=spec.seed,
    )  # fmt: skip


def _from_file(spec: TeacherSpec, info: DataInfo, classes: int) -> tuple[FeatureNet, str]:
    """The net with all weights of its file, or with all but its classifier's, where that is of other classes, and why
    in words.
    """
    state = read_state(spec.weights)
    net = _build(spec, info, classes)
    why = mismatch(state, net.model.state_dict()) if classes else ""
    if classes and not why:
        load_weights(net, spec.weights)
        return net, ""
    if classes and _is_timms(spec) and not mismatch(known := _as_timm_reads(net, state), net.model.state_dict()):
        net.model.load_state_dict({**net.model.state_dict(), **known})
        return net, ""
    bare = _build(spec, info, 0)
    own, ends = bare.model.state_dict(), head_names(bare)
    trunk = {key: value for key, value in state.items() if not key.startswith(ends)}
    if mismatch(trunk, own) and _is_timms(spec):
        trunk = _as_timm_reads(bare, state, ends)
    if mismatch(trunk, own):
        load_weights(net if classes else bare, Path(spec.weights))  # says what does not fit
    bare.model.load_state_dict({**own, **trunk})
    return bare, f" ({spec.weights}{f': {why}' if why else ''})"


def _as_timm_reads(net: FeatureNet, state: State, ends: tuple[str, ...] = ()) -> State:
    """A checkpoint of a model's authors under timm's names, as timm's own loader has it, less what begins with `ends`,
    its classifier.
    """
    from distill.models.timm_factory import renamed

    return {key: value for key, value in renamed(net.model, state).items() if not key.startswith(ends)}
