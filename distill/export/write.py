"""Writes a run's student as a folder that timm and the Hub load, verified before it is believed."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import distill.export.onnx_file as onnx_file
from distill.config import thawed
from distill.config.our_nets import OUR_NETS, is_sized
from distill.config.run_spec import TeacherSpec
from distill.engine.checkpoint import export
from distill.export.card import card
from distill.export.facts import KEY, Facts
from distill.export.shipped import CONFIG, WEIGHTS, as_timm_loads, of_run, onnx_beside, packed, shipped_student
from distill.files import json_ready, read_mapping, write_json, write_text
from distill.finished_run import FinishedRun
from distill.models import FeatureNet, build
from distill.models.quant_file import FILE
from distill.run_folder import RunFolder
from distill.teachers.making import teacher_size

_CPU = torch.device("cpu")
TOLERANCE = 1e-3  # of the largest logit: what a file's answers may differ by from the net's
VIEWED = {"gray": 1, "L": 1, "depth": 1, "ab": 2}  # channels of dataset.views
_ROUNDING = 0.1  # the same where inputs are rounded: a value near a half may fall to either side


def export_run(
    run: FinishedRun, folder: Path, *, with_onnx: bool, best: bool = False, threads: int = 1
) -> dict[str, Any]:
    """Write config.json, weights, README.md, and an ONNX file where asked; return config.json.

    Raises ValueError for a student that timm cannot make where no ONNX file is asked for, and for files whose answers
    are not the net's.
    """
    shipped = of_run(run, _CPU, best)
    facts, net = shipped.facts, shipped.net
    assert isinstance(net, FeatureNet)
    if facts.bits is None and facts.model is None and not with_onnx:
        raise ValueError(f"{net.name}, which {run.result.method} leaves, is no net that timm can make: add --onnx")
    if with_onnx:
        onnx_file.needs()
    earlier = _check_free(folder, run.spec.below)
    folder.mkdir(parents=True, exist_ok=True)
    content = _config(facts, net)
    content[KEY]["run"] = run.spec.below
    write_json(folder / CONFIG, content)
    if earlier is not None:  # of other weights perhaps: those of another epoch
        earlier.unlink(missing_ok=True)
    file, timings = _weights(run, facts, net, folder), content[KEY]
    if file == WEIGHTS:
        timings["timm"] = compared(as_timm_loads(folder), ExportedModel(net), facts, folder)
    if with_onnx:
        timings["onnx"] = _onnx(run, facts, net, folder, best, threads)
    write_json(folder / CONFIG, content)
    write_text(folder / "README.md", card(run, facts, file, timings.get("onnx") or {}))
    return content


def _check_free(folder: Path, below: str) -> Path | None:
    """Return the ONNX file of an earlier export of the same run. Raises ValueError for a folder that holds anything
    else: files of others would be lost, and whoever takes the folder on would take them for a part of the net.
    """
    if RunFolder(folder).begun:  # eval and predict would take it for an exported folder from then on
        raise ValueError(f"{folder} is the folder of a run: give another, --to FOLDER")
    if not folder.is_dir():
        return None  # what else lies there is said by the system
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    held = read_mapping(folder / CONFIG).get(KEY)
    if not there or (isinstance(held, dict) and held.get("run", below) == below):
        return onnx_beside(folder)
    whose = f"the export of {held.get('run')}" if isinstance(held, dict) else "no export of this run"
    first = next((name for name in (CONFIG, WEIGHTS, "README.md") if name in there), there[0])
    raise ValueError(f"{folder} holds {first}, which is {whose}: give a new or an empty folder, --to FOLDER")


class ExportedModel(nn.Module):
    """The net as it is shipped: images normalised by its own constants -> logits."""

    def __init__(self, net: FeatureNet) -> None:
        super().__init__()
        self.model = net.model.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits.float()


def _config(facts: Facts, net: FeatureNet) -> dict[str, Any]:
    """config.json as timm and the Hub read it, and what we keep beside."""
    found: dict[str, Any] = {
        "architecture": facts.model,
        "num_classes": len(facts.classes),
        "num_features": net.embedding_dim,
        "label_names": list(facts.classes),
        "model_args": _arguments(net) if facts.model else None,
        "pretrained_cfg": {
            "input_size": list(facts.shape),
            "fixed_input_size": _is_fixed(net),
            "interpolation": "bicubic" if facts.dataset.get("interpolation") == "bicubic" else "bilinear",
            "crop_pct": facts.crop_pct,
            "crop_mode": facts.crop,
            "mean": list(facts.mean),
            "std": list(facts.std),
            "num_classes": len(facts.classes),
            "first_conv": _known(net).get("first_conv"),
            "classifier": _known(net).get("classifier"),
        },
        KEY: {"facts": facts.to_json()},
    }
    return {key: value for key, value in found.items() if value is not None}


def _arguments(net: FeatureNet) -> dict[str, Any]:
    """The keywords that make the net again, whatever its name's own are."""
    recipe, made = net.recipe or {}, getattr(net.model, "_model_args", {})
    known = {**made, **recipe.get("args", {}), "in_chans": net.in_chans, "num_classes": net.num_classes}
    if is_sized(net.name):
        known["size"] = net.size
    elif net.name not in OUR_NETS and _is_fixed(net):
        known.setdefault("img_size", net.size)
    own = ("stages", "pretrained", "cache_dir", "checkpoint_path")
    return {
        key: value for key, value in json_ready(known).items() if key not in own and not key.startswith("pretrained_")
    }


def _known(net: FeatureNet) -> dict[str, Any]:
    """What timm says of its own net; of ours, the classifier's name."""
    ours = {"classifier": getattr(net.model, "classifier_name", None)}
    return getattr(net.model, "pretrained_cfg", None) or ours


def _is_fixed(net: FeatureNet) -> bool:
    return bool(_known(net).get("fixed_input_size")) or is_sized(net.name)


def _weights(run: FinishedRun, facts: Facts, net: FeatureNet, folder: Path) -> str | None:
    """Write the weights; returns the file's name, None for a net that an ONNX file alone can hold."""
    if facts.bits:
        name = packed(facts.bits)
        shutil.copyfile(run.folder / FILE, folder / name)
        return name
    if facts.model is None:
        return None
    export(net.model, folder / WEIGHTS, {"format": "pt", "model": net.name})
    return WEIGHTS


def _onnx(run: FinishedRun, facts: Facts, net: FeatureNet, folder: Path, best: bool, threads: int) -> dict[str, Any]:
    """Write the ONNX file, compare its answers with the net's, time it beside the teachers'."""
    name = f"model.{facts.bits}.onnx" if facts.bits else "model.onnx"
    coded = shipped_student(run, _CPU, best, coded=True)[0] if facts.bits else net
    onnx_file.write_onnx(ExportedModel(coded), facts.shape, folder / name, net.name)
    session = onnx_file.Session(folder / name, threads)
    return {
        "file": name,
        "bytes": (folder / name).stat().st_size,
        **compared(session, ExportedModel(net), facts, folder / name),
        "milliseconds": session.milliseconds(facts.shape),
        "threads": threads,
        "teachers": {
            each.name: _taught(run, each, knows, len(facts.classes), threads)
            for each, knows in zip(run.spec.teachers, _classifiers(run), strict=True)
        },
    }


def _classifiers(run: FinishedRun) -> list[bool]:
    """Which of a run's teachers are classifiers of the data's classes: those whose accuracy was measured."""
    several = run.result.document.get("teachers") or []
    if len(several) == len(run.spec.teachers):
        return [each.get("accuracy") is not None for each in several]
    return [run.result.teacher_accuracy is not None] * len(run.spec.teachers)


def compared(made: nn.Module, net: nn.Module, facts: Facts, where: Path) -> dict[str, float]:
    """How far the answers of a written file are from the net's. Raises ValueError where that is no rounding."""
    difference, largest = onnx_file.difference(net, made, facts.shape)
    if not difference <= largest * (_ROUNDING if facts.bits else TOLERANCE):
        raise ValueError(
            f"{where} answers otherwise than {facts.student}: by {difference:.3g}, of logits up to {largest:.3g}"
        )
    return {"difference": difference, "largest": largest}


def _taught(run: FinishedRun, spec: TeacherSpec, knows_classes: bool, classes: int, threads: int) -> float | str:
    """Milliseconds of an image in a teacher's architecture, at its own size, or why they were not measured; weights do
    not matter. knows_classes: whether it is a classifier of the data's.
    """
    data = run.spec.dataset
    chans = VIEWED.get(str(data.views.get("teacher")), data.in_chans)
    classes = classes if knows_classes else 0
    with TemporaryDirectory() as made:
        file = Path(made) / "teacher.onnx"
        try:
            size = teacher_size(spec, int(run.result.document["input"]["size"]), classes)
            args = {key: value for key, value in thawed(spec.args).items() if key != "num_classes"}
            net = build(spec.model, classes, in_chans=chans, size=size, args=args, seed=0)
            onnx_file.write_onnx(net.model, (chans, size, size), file, net.name)
        except ValueError as error:
            return f"not measured ({error})"
        return onnx_file.Session(file, threads).milliseconds((chans, size, size))
