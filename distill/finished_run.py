"""A finished run opened again: its configuration, its data, its student and its teachers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open

from distill.config import RunSpec, identity, register, resolve, thawed
from distill.config.idle import check_root
from distill.content.state_file import read_state
from distill.data import Data, DataInfo, load_data
from distill.data.dataset import data_info
from distill.data.modality import views_of
from distill.engine import hyperrule
from distill.models import FeatureNet, build, load_weights
from distill.models.weights import mismatch
from distill.result import Result
from distill.run import make_method
from distill.run_folder import STUDENT_FILE, RunFolder
from distill.start import own_constants
from distill.teachers.forward import Teachers
from distill.teachers.store import Teacher, get_teachers, own_weights


@dataclass
class FinishedRun:
    """A finished run. `spec` is resolved anew, so that `dataset.root` follows this machine's DISTILL_DATA."""

    folder: Path
    spec: RunSpec
    result: Result

    @property
    def name(self) -> str:
        """`resnet56 -> resnet20, crd, seed 1`, for titles."""
        pair = f"{self.result.teacher} → " if self.result.teacher else ""
        return f"{pair}{self.result.student}, {self.result.method}, seed {self.result.seed}"


def open_run(folder: str | Path, root: str | Path | None = None) -> FinishedRun:
    """Open a finished run's folder; root: where the data is, in place of the configuration's dataset.root.

    Raises ValueError where it is no run, not finished, or lacks its files.
    """
    opened = RunFolder(folder)
    folder, result = opened.path, opened.finished_result()
    register()
    recorded = OmegaConf.create(opened.config)
    if not {"dataset", "student", "method", "schedule", "precision"} <= recorded.keys():
        raise ValueError(f"{opened.tracking} does not hold the run's configuration: run it again")
    if root is not None:
        check_root(recorded.dataset, f"--root={root}")
        recorded.dataset.root = str(root)
    who, here = identity(recorded), folder.resolve()  # of code of one's own the hash may be another by now
    below = Path(who["below"].replace(who["hash"], result.hash or who["hash"])).parts
    if here.parts[-len(below) :] == below:  # wherever run and output folder have been moved since
        recorded.output = str(here.parents[len(below) - 1])
    return FinishedRun(folder, resolve(recorded), result)


def get_data(run: FinishedRun, device: torch.device) -> Data:
    """The data set that the run was trained on. Raises ValueError as `load` does."""
    spec = run.spec
    return load_data(spec.dataset, device, hyperrule.adapt(spec.schedule, spec.dataset))


def student(run: FinishedRun, device: torch.device, weights: str | Path = STUDENT_FILE) -> FeatureNet:
    """The trained student in eval mode, frozen; weights: a file of the run's folder.

    A quantised one is an ordinary net with the weights as they act. What a method deploys besides its
    student (simkd) is built by the method, with its teachers. Raises ValueError when file and configuration
    do not fit.
    """
    path, spec = run.folder / weights, run.spec.student
    made = exported_as(run.folder / STUDENT_FILE)
    path = own_weights(RunFolder(run.folder)) if str(weights) == STUDENT_FILE else path
    if made in (None, spec.model):
        info, args = _seen(run, device), run.result.document.get("args") or thawed(spec.args)
        net = build(spec.model, info.num_classes, in_chans=info.in_chans, size=info.size, args=args, seed=0)
        load_weights(net, path)
        if spec.pretrained or spec.mean is not None:
            own_constants(net, spec, info)
    else:
        data = get_data(run, device)
        net = make_method(run.spec, data, Teachers(teachers(run, data, device)), device).deployed()
        _fill(net, path)
    net.requires_grad_(False).eval()
    return net.to(device).to(memory_format=torch.channels_last)


def _seen(run: FinishedRun, device: torch.device) -> DataInfo:
    """What the student sees, as the run recorded it, so that its data need not be here; of a run of before that, as
    they are.
    """
    takes, classes = run.result.document.get("input"), run.result.document.get("classes")
    if not isinstance(takes, dict) or not isinstance(classes, list):
        return get_data(run, device).info
    spec = replace(run.spec.dataset, size=int(takes["size"]))
    info = data_info(spec, np.empty(0, np.int64), classes, held_out=False)
    return views_of(spec.views, info, depth="depth" in spec.views.values())[0]


def teachers(run: FinishedRun, data: Data, device: torch.device) -> list[Teacher]:
    """The run's teachers as it had them; none are trained. Raises ValueError where one is gone."""

    def missing(spec: RunSpec) -> None:
        if RunFolder(spec.folder).result is None:
            raise ValueError(
                f"the teacher of {run.folder} is not in {spec.folder} any more: put it back, or train it with "
                f"method=none student={spec.student.name} seed={spec.seed} and the run's other options"
            )

    if not run.result.teacher:
        return []
    return get_teachers(run.spec, data, device, train=missing)


def exported_as(path: Path) -> str | None:
    """The name of the net that an export says it holds, None where it says nothing. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the command in result.json again")
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("model")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): run the command in result.json again") from error


def _fill(net: FeatureNet, path: Path) -> None:
    """Like load_weights, for nets whose export leaves out what they do not use."""
    state = read_state(path)
    if problem := mismatch(state, net.model.state_dict()):
        raise ValueError(f"{path} does not fit {net.name}: {problem}")
    net.model.load_state_dict(state, strict=False)
