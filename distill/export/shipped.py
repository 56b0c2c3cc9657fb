"""A trained net opened to be asked: a run's student, an exported folder, or an ONNX file in one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import distill.export.onnx_file as onnx_file
import distill.finished_run as finished_run
from distill.export.facts import KEY, Facts, facts_of
from distill.files import one_line, read_json, read_mapping
from distill.finished_run import FinishedRun
from distill.models import FeatureNet, build
from distill.models.quant_file import FILE, named_by_bits, read_quantized
from distill.run_folder import BEST, STUDENT_FILE

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass
class Shipped:
    """A net in eval mode and what is known of it.

    net: images [B,C,S,S], normalised as `facts` says, -> logits [B,K]. run: where it is a run's student, which takes
    images as the run's data set gives them -> Outputs. also: an ONNX file of the same net.
    """

    path: Path
    net: nn.Module
    facts: Facts
    run: FinishedRun | None = None
    also: Path | None = None

    def require_classes(self) -> Shipped:
        """Return this net. Raises ValueError for a backbone, which knows no classes."""
        if not self.facts.classes:
            raise ValueError(
                f"{self.path} is a backbone without a classifier: result.json of its run says what its features are "
                "worth, and so does `distill probe`"
            )
        return self

    def for_data(self, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
        """The net for images that its data set gives."""
        own = self.facts.mean, self.facts.std
        if self.run is not None or (tuple(mean), tuple(std)) == own:
            return self.net
        return Renormalised(self.net, mean, std, *own)


def open_shipped(path: str | Path, device: torch.device, best: bool = False) -> Shipped:
    """Open a run's folder, an exported one, or an ONNX file in that. Raises ValueError for anything else."""
    path = Path(path)
    if best and (path.suffix == ".onnx" or (path / CONFIG).is_file()):
        raise ValueError(f"--best is for a run: {path} holds one net alone, that of the epoch that it was exported for")
    if path.is_file() and path.suffix == ".onnx":
        return Shipped(path, onnx_file.Session(path), read_facts(path.parent))
    if (path / CONFIG).is_file():
        return _of_folder(path, device)
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}: give a finished run, outputs/.../s<seed>, or an exported folder")
    return of_run(finished_run.open_run(path), device, best)


def of_run(run: FinishedRun, device: torch.device, best: bool = False) -> Shipped:
    """A run's student, after its last or its best epoch; a quantised one computes with its bits."""
    net, bits = shipped_student(run, device, best)
    classes = run.result.document.get("classes")
    if classes is None:  # of a version before they were recorded
        classes = finished_run.get_data(run, device).info.class_names
    args = (net.recipe or {}).get("args") or {}
    facts = facts_of(run, _in_registry(net), args, classes, bits, best)
    return Shipped(run.folder, net, facts, run=run)


def shipped_student(
    run: FinishedRun, device: torch.device, best: bool = False, coded: bool = False
) -> tuple[FeatureNet, str | None]:
    """A run's student and, where it is quantised, what its bits are called; coded: see `read_quantized`."""
    net, file = finished_run.student(run, device, BEST if best else STUDENT_FILE), run.folder / FILE
    if "quantized" not in run.result.document:
        return net, None
    if best:
        raise ValueError(f"{run.folder} holds a quantised student of its last epoch alone: leave --best away")
    made = read_quantized(file, net, coded).requires_grad_(False)
    return made.to(device), named_by_bits(file)


def _in_registry(net: FeatureNet) -> str | None:
    """What timm calls a net, None for one that it cannot make."""
    if net.recipe is None:
        return None
    known = getattr(net.model, "pretrained_cfg", None) or {}
    return str(known.get("architecture") or net.name).split(".")[0]


def read_facts(folder: Path) -> Facts:
    """What an exported folder says of its net. Raises ValueError."""
    content = read_json(folder / CONFIG)
    own = content.get(KEY) if isinstance(content, dict) else None
    return Facts.from_json(own.get("facts") if isinstance(own, dict) else None, folder)


def onnx_beside(folder: Path) -> Path | None:
    """The ONNX file that an export has written into its folder; those of others say nothing of the net."""
    own = read_mapping(folder / CONFIG).get(KEY)
    told = own.get("onnx") if isinstance(own, dict) else None
    file = folder / Path(str(told.get("file"))).name if isinstance(told, dict) else None
    return file if file is not None and file.is_file() else None


def _of_folder(folder: Path, device: torch.device) -> Shipped:
    facts = read_facts(folder)
    also = onnx_beside(folder)
    if (folder / WEIGHTS).is_file():
        return Shipped(folder, as_timm_loads(folder).to(device), facts, also=also)
    if facts.bits and (folder / packed(facts.bits)).is_file():
        return Shipped(folder, _quantised(folder, facts).to(device), facts, also=also)
    if also is None:
        raise ValueError(f"{folder} holds neither {WEIGHTS} nor an ONNX file: export it again")
    return Shipped(folder, onnx_file.Session(also), facts)


def packed(bits: str) -> str:
    """The name of an exported file of whole numbers."""
    return f"model.{bits}.safetensors"


def _quantised(folder: Path, facts: Facts) -> nn.Module:
    like = build(
        str(facts.model), len(facts.classes), in_chans=facts.channels, size=facts.size, args=dict(facts.args), seed=0
    )
    return read_quantized(folder / packed(str(facts.bits)), like).requires_grad_(False)


def as_timm_loads(folder: Path) -> nn.Module:
    """The net of an exported folder as anybody gets it: by timm, with our nets in its registry. Raises ValueError."""
    import timm

    logging.getLogger("timm").setLevel(logging.WARNING)
    import distill.models.timm_registry  # noqa: F401

    try:
        net: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # timm's, safetensors', torch's
        raise ValueError(f"timm cannot load {folder} ({one_line(error)[:200]}): export it again") from error
    return net.requires_grad_(False).eval()


class Renormalised(nn.Module):
    """A net that takes images by other mean and std than those by which they come."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        net: nn.Module,
        from_mean: Sequence[float],
        from_std: Sequence[float],
        to_mean: Sequence[float],
        to_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.net = net
        given = (from_mean, from_std, to_mean, to_std)
        mean, std, own_mean, own_std = (torch.tensor([*v], dtype=torch.float64).view(1, -1, 1, 1) for v in given)
        self.register_buffer("scale", (std / own_std).float())
        self.register_buffer("shift", ((mean - own_mean) / own_std).float())

    def forward(self, images: Tensor) -> Any:
        return self.net(images * self.scale + self.shift)
