"""What a method needs of its teachers and its data, by what it reads: logits of the data's classes, labels. No torch.

`about.taps` of its YAML say what its own losses read (a clause of the contract holds them to that), `ce` and `kd` weigh
what every method has.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import load_node, options, plain
from distill.config.hashing import teacher_specs
from distill.config.nulls import usually_measured

OF_A_CLASSIFIER = frozenset({"logits", "classifier"})  # of about.taps: what only a classifier of the data's classes has
LABELS = "labels"  # of about.taps: the method's own losses, or its samplers, read them


def reads_of_classifiers(node: Mapping[str, Any]) -> str | None:
    """What a method's plain node reads that only classifiers of the data's classes have, in words; None: nothing."""
    own = OF_A_CLASSIFIER.intersection(_taps(node))
    if own:
        return "logits" if "logits" in own else "the teacher's classifier"
    return f"logits (method.kd={node['kd']:g})" if node.get("kd") else None


def reads_of_labels(node: Mapping[str, Any]) -> str | None:
    """What a method's plain node reads of labels, in words; None: nothing."""
    if LABELS in _taps(node):
        return "labels"
    return f"labels (method.ce={node['ce']:g})" if node.get("ce") else None


def _taps(node: Mapping[str, Any]) -> set[str]:
    return set((node.get("about") or {}).get("taps") or ())


@cache
def without_classifiers(labels: bool) -> tuple[str, ...]:
    """The methods with teachers whose own losses read no logits; labels: whether they may read labels."""
    found = []
    for name in options("method"):
        content: Any = OmegaConf.to_container(load_node("method", name) or OmegaConf.create({}), resolve=False)
        own = _taps(content)
        teachers = (content.get("about") or {}).get("teachers", 1)
        if teachers != 0 and own and not own & OF_A_CLASSIFIER and (labels or LABELS not in own):
            found.append(name)
    return tuple(found)


def advice(node: Mapping[str, Any], labels: bool) -> str:
    """What to do where a method's needs cannot be met: set its weights to 0, or take a method without these needs."""
    name, keys = str(node["name"]), ("kd",) if labels else ("ce", "kd")
    fitting = without_classifiers(labels)
    zero = " and ".join(f"method.{key}=0" for key in keys if node.get(key))
    if name in fitting and zero:
        return f"set {zero}"
    nothing = " and ".join(f"{key}=0" for key in keys)
    return f"with {nothing} these read none: {', '.join(fitting)}"


def check_evaluate(cfg: DictConfig) -> None:
    """Raise ValueError for keys of an evaluation that does not take place."""
    node = plain(cfg, "evaluate") if "evaluate" in cfg else {}
    usual = usually_measured(plain(cfg, "dataset"))
    knn, probe = (usual[key] if node.get(key) is None else node[key] for key in ("knn", "probe"))
    if node.get("neighbours") and not knn:
        raise ValueError("evaluate.neighbours is for evaluate.knn=true: give both or neither")
    if node.get("images") and not (knn or probe):
        raise ValueError("evaluate.images is for evaluate.knn=true and evaluate.probe=true: give one, or leave it null")


def check_labels(cfg: DictConfig) -> None:
    """Raise ValueError where training is to read no labels (dataset.labels=false), and the method reads some, or
    logits of their classes; and where a teacher is to be trained on them.
    """
    if plain(cfg, "dataset").get("labels") is not False:
        return
    node = plain(cfg, "method")
    what = reads_of_labels(node) or reads_of_classifiers(node)
    if what:
        raise ValueError(f"dataset.labels=false: method={node['name']} reads {what}: {advice(node, labels=False)}")
    if (node.get("about") or {}).get("teachers", 1) == 0:
        raise ValueError(f"dataset.labels=false: method={node['name']} has no teacher, and learns from labels alone")
    for teacher in teacher_specs(cfg):
        if teacher.get("weights", "auto") == "auto":
            raise ValueError(
                f"teacher.weights=auto trains {teacher['name']} on labels, and dataset.labels=false leaves none: give "
                "its file, teacher.weights=FILE, or teacher.weights=pretrained"
            )
    if plain(cfg, "schedule").get("label_smoothing"):
        raise ValueError("schedule.label_smoothing smooths labels, and dataset.labels=false: leave it null")
