"""What the pictures are drawn from: student and teacher, run once over the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import distill.finished_run as finished_run
from distill.analyze.numbers import attention
from distill.config import slug
from distill.data import Data, DataInfo
from distill.finished_run import FinishedRun
from distill.models import FeatureNet
from distill.models.reading import evaluating
from distill.report.collect import collect
from distill.report.summary import ALONE, Row, summarize
from distill.teachers.store import Teacher

COMPARED, EMBEDDED, _GROUPS, _SHOWN = (
    256,
    1000,
    10,
    6,
)  # images for CKA and t-SNE, classes of t-SNE, images shown
SIDE = 16  # maps for CKA are averaged down to this


@dataclass
class NetOutputs:
    """One net over the test images. `embeddings`, `stages` and `attention` are of the chosen images only."""

    name: str
    logits: Tensor  # [N,K]
    embeddings: Tensor  # [E,D]
    stages: list[Tensor]  # of each stage [M,C*H*W]
    attention: list[Tensor]  # of each stage [S,H,W]


@dataclass
class ChosenImages:
    """Positions among the N test images: for t-SNE, for CKA, to be shown."""

    embedded: Tensor
    compared: Tensor
    shown: Tensor


@dataclass
class AnalysisData:
    run: FinishedRun
    info: DataInfo
    labels: Tensor  # [N]
    chosen: ChosenImages
    images: np.ndarray  # [S,H,W,3] of 0..1
    student: NetOutputs
    teacher: NetOutputs | None
    rows: list[Row]  # of the run's data set and pair, and the student alone
    row: Row | None  # the run's, over its seeds

    @property
    def nets(self) -> list[tuple[str, NetOutputs]]:
        """("teacher", ...) where there is one, then ("student", ...)."""
        taught = [("teacher", self.teacher)] if self.teacher is not None else []
        return [*taught, ("student", self.student)]

    @property
    def part(self) -> str:
        """Which images these are, as a word before images and accuracy: test, or held-out ones of training."""
        return "held-out" if self.run.result.evaluated_on == "holdout" else "test"

    @property
    def temperature(self) -> float:
        """Of the run's method, 4 where it has none."""
        return float(self.run.spec.method.temperature or 4.0)


def load_analysis_data(run: FinishedRun, device: torch.device, images: int = 10_000) -> AnalysisData:
    """Rebuild the run's nets and run them over `images` evenly spread test images (all, if there are fewer).

    Of several teachers the first is looked at, if it has logits. Raises ValueError for what is missing.
    """
    whole = finished_run.get_data(run, device)
    if not whole.info.num_classes:
        raise ValueError(f"{run.folder} was trained without labels, and has no logits to look at: see its result.json")
    data = thinned(whole, images)
    labels = torch.as_tensor(data.evaluated.labels).cpu()
    chosen = choose(labels, data.info.num_classes)
    teachers = finished_run.teachers(run, whole, device)  # their accuracy, if it is not known, is that on all images
    student = forward_test_images(finished_run.student(run, device), data, chosen, "student")
    seen = seen_teacher(teachers)
    teacher = None if seen is None else forward_test_images(seen, data, chosen, "teacher")
    rows = pair_rows(run)
    here = run.folder.resolve()
    row = next((row for row in rows if any(one.folder.resolve() == here for one in row.runs)), None)
    return AnalysisData(run, data.info, labels, chosen, _shown(data, chosen.shown), student, teacher, rows, row)


def seen_teacher(teachers: Sequence[Teacher]) -> FeatureNet | None:
    """The net of the first teacher; None where there is none, and for one that taught features and has no logits."""
    return teachers[0].net if teachers and teachers[0].net.num_classes else None


def thinned(data: Data, count: int) -> Data:
    """The data with at most `count` evenly spread test images."""
    split, total = data.evaluated, len(data.evaluated)
    if total <= count:
        return data
    rows = torch.linspace(0, total - 1, count).round().long()
    changes: dict[str, Any] = {}
    for item in fields(split):
        value = getattr(split, item.name)
        if isinstance(value, Tensor | np.ndarray):
            changes[item.name] = value[rows if isinstance(value, Tensor) else rows.numpy()]
        elif isinstance(value, list):
            changes[item.name] = [value[row] for row in rows.tolist()]
    return replace(data, test=replace(split, **changes))


def choose(labels: Tensor, classes: int) -> ChosenImages:
    """Choose among images with `labels` [N]: the same for every net, and evenly spread."""
    groups = evenly_spread(torch.arange(classes), _GROUPS)
    of_groups = [evenly_spread((labels == k).nonzero().flatten(), EMBEDDED // len(groups)) for k in groups.tolist()]
    first = [rows[0] for k in range(classes) if len(rows := (labels == k).nonzero().flatten())]
    shown = evenly_spread(torch.stack(first), _SHOWN).sort().values  # as batches come by, and so are their labels
    return ChosenImages(torch.cat(of_groups).sort().values, evenly_spread(torch.arange(len(labels)), COMPARED), shown)


def evenly_spread(values: Tensor, count: int) -> Tensor:
    """At most `count` of the values, evenly spread."""
    if len(values) <= count:
        return values
    return values[torch.linspace(0, len(values) - 1, count).round().long()]


@torch.no_grad()
def forward_test_images(net: FeatureNet, data: Data, chosen: ChosenImages, side: str) -> NetOutputs:
    """Run a net over the test images as `side` (student or teacher) sees them, at its own size, in eval mode and fp32.
    """
    logits, embeddings, at = [], [], 0
    stages: list[list[Tensor]] = [[] for _ in net.shapes]
    maps: list[list[Tensor]] = [[] for _ in net.shapes]
    with evaluating(net):
        for images, _ in data.evaluation(128, side, net.size if net.resizes else None):
            out = net(images)
            logits.append(out.logits.cpu())
            embeddings.append(out.embedding[_within(chosen.embedded, at, len(images))].cpu())
            compared, shown = (_within(rows, at, len(images)) for rows in (chosen.compared, chosen.shown))
            for stage, feature in enumerate(out.features):
                stages[stage].append(_small(feature[compared]).flatten(1).cpu())
                maps[stage].append(attention(feature[shown]).cpu())
            at += len(images)
    joined = [torch.cat(parts) for parts in stages]
    return NetOutputs(net.name, torch.cat(logits), torch.cat(embeddings), joined, [torch.cat(parts) for parts in maps])


def _within(rows: Tensor, start: int, count: int) -> Tensor:
    """Those of the sorted or unsorted positions that lie in a batch, counted from its start."""
    return rows[(rows >= start) & (rows < start + count)] - start


def _small(feature: Tensor) -> Tensor:
    height, width = feature.shape[2:]
    size = (min(height, SIDE), min(width, SIDE))
    return F.adaptive_avg_pool2d(feature.float(), size) if len(feature) else feature.float()[..., : size[0], : size[1]]


def _shown(data: Data, rows: Tensor) -> np.ndarray:
    """The images at `rows` [S] as the student sees them, before normalisation: [S,H,W,3] of 0..1."""
    found, at = [], 0
    for images, _ in data.evaluation(128):
        found.append(images[_within(rows, at, len(images))].cpu())
        at += len(images)
    images = torch.cat(found)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.info.mean, data.info.std))
    images = (images * std + mean).clamp(0, 1)
    images = images if images.shape[1] == 3 else images.mean(1, keepdim=True).repeat(1, 3, 1, 1)
    return images.permute(0, 2, 3, 1).numpy()


def pair_rows(run: FinishedRun) -> list[Row]:
    """The finished runs of the run's data set and pair, and those of the student alone, over seeds."""
    here, spec = run.folder.resolve(), run.spec
    folders: Sequence[Path] = sorted(path for path in here.parent.glob("s*") if path.is_dir())
    if here == spec.folder.resolve() and len(Path(spec.below).parts) > 3:
        alone = here.parents[2] / f"{ALONE}-{slug(spec.student.name)}"
        folders = [here.parents[1], *([alone] if alone.is_dir() and alone != here.parents[1] else [])]
    rows = summarize(collect(folders).runs)
    own = {one.student_net for row in rows for one in row.runs if one.folder.resolve() == here}
    return [row for row in rows if row.one.student_net in own]
