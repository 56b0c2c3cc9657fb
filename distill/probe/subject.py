"""Which frozen net is probed: a run's student or teacher, or the net in a file of weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

import distill.config as config
import distill.finished_run as finished_run
from distill.config import NetSpec, ScheduleSpec
from distill.config.our_nets import OUR_NETS
from distill.config.schedule_spec import lr_share
from distill.content.state_file import State, read_state
from distill.models import FeatureNet, build
from distill.models.weights import fitting_names, mismatch
from distill.run_folder import STUDENT_FILE, RunFolder


@dataclass
class Subject:
    """A frozen net; results go below `folder`, `suffix` ends their names, `about` is part of them."""

    net: FeatureNet
    folder: Path
    suffix: str
    about: dict[str, Any]
    lr_scale: float = 1.0


def find(path: str | Path, device: torch.device, *, teacher: bool = False, model: str | None = None) -> Subject:
    """The net that `path` stands for: a run's folder, a file in one, or a file of weights of `model`.

    Raises ValueError where there is none, or it cannot be told which net a file is of.
    """
    path = Path(path)
    if path.is_dir():
        if model:
            raise ValueError(f"--model={model} is for a file of weights, and {path} says itself which net it holds")
        return _of_run(path, device, teacher)
    if not path.is_file():
        raise ValueError(f"there is no {path}: give a finished run's folder or a file of weights")
    if teacher:
        raise ValueError(f"{path} is a file: --teacher goes with a run's folder")
    if RunFolder(path.parent).tracking.exists() and model is None:
        return _of_run(path.parent, device, False, path.name)
    return _of_file(path, device, model)


def _of_run(folder: Path, device: torch.device, teacher: bool, weights: str = STUDENT_FILE) -> Subject:
    run = finished_run.open_run(folder)
    shared = {key: run.result.document.get(key) for key in ("method", "hash", "seed", "teacher", "student")}
    shared |= {"trained_on": run.result.dataset, "protocol": run.result.protocol}
    if teacher:
        found = finished_run.teachers(run, finished_run.get_data(run, device), device)
        if len(found) != 1:
            raise ValueError(f"{folder} has {len(found) or 'no'} teachers: --teacher probes a single one")
        about = {"net": "teacher", "weights": found[0].origin, **shared}
        return Subject(found[0].net, folder, "-teacher", about, _scale(run.spec.teachers[0], run.spec.schedule))
    suffix = "" if weights == STUDENT_FILE else f"-{Path(weights).stem}"
    about = {"net": f"student{suffix}", "weights": weights, **shared}
    net = finished_run.student(run, device, weights)
    return Subject(net, folder, suffix, about, _scale(run.spec.student, run.spec.schedule))


def _scale(net: NetSpec, schedule: ScheduleSpec) -> float:
    """The share of the rate at which a run trains a net."""
    return lr_share(schedule.lr_scales, net.model) * net.lr_scale


def _of_file(path: Path, device: torch.device, model: str | None) -> Subject:
    state = read_state(path)
    exported = finished_run.exported_as(path) if path.suffix == ".safetensors" else None
    name = model or exported or next((name for name, _, _ in fitting_names(state)), None)
    if name is None:
        raise ValueError(f"{path} does not say which net it is of: give --model, a name that timm knows")
    name = f"cifar_{name}" if f"cifar_{name}" in OUR_NETS else name
    net = _fitting(path, state, name).requires_grad_(False).eval().to(device)
    crd: Any = config.load_node("schedule", "crd") or {}
    scale = lr_share(crd.get("lr_scales"), name)
    return Subject(net, path.parent, f"-{path.stem}", {"net": name, "weights": path.name}, scale)


def _fitting(path: Path, state: State, name: str) -> FeatureNet:
    """The net of that name with the classes and input channels of the file. ValueError when none fits."""
    matrices = {tensor.shape[0] for key, tensor in sorted(state.items()) if tensor.ndim == 2}
    size = OUR_NETS[name].size if name in OUR_NETS else 224
    problems = []
    for classes, in_chans in product(sorted(matrices), (3, 1)):
        net = build(name, classes, in_chans=in_chans, size=size, seed=0)
        problem = mismatch(state, net.model.state_dict())
        if not problem:
            net.model.load_state_dict({**net.model.state_dict(), **state})
            return net
        problems.append(problem)
    why = min(problems, key=len, default="it holds no linear layer")
    raise ValueError(f"{path} does not fit {name}: {why}")
