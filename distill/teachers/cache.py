"""`teacher.cache`: what a frozen teacher says of each crop and flip of each image, kept in a file for all runs.

A padded crop and a flip show an image in finitely many views (162 for CIFAR's 4 pixels), so the answers are finite too.
A file lies at <output>/<dataset>/teachers/<key>.<logits|embedding>, the key being a hash of all that the answers depend
on: the teacher's weights, the images, their normalisation, the views, and the precision.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from distill.batch import Batch, CroppedBatch
from distill.data import Data
from distill.method import TeacherForward
from distill.models import FeatureNet, Outputs
from distill.teachers.row_file import CHECKSUM, RowFile
from distill.teachers.store import Teacher

log = logging.getLogger(__name__)
_BESIDE = {"index", "labels"}  # of about.taps: what is the batch's, and no teacher's
HOLDS = {"logits": {"logits"} | _BESIDE, "embedding": {"logits", "embedding", "classifier"} | _BESIDE}  # of about.taps
FREE = 4  # times a file's size must be free on the disk before `auto` begins one


class TeacherCache:
    """Looks up a teacher's outputs on the views of a batch, and runs it on those alone that are in no file yet.

    Values are half floats, those that are computed now too: a run's numbers do not depend on what others left here.
    Only batches of a CroppedBatch's crops, in the run's precision, are looked up; a look-up waits for the device.

    forward: that of the live teacher. files: one for each teacher, in the order of `teachers`.
    whole_from: the share of unknown views from which it is run on the whole batch, since a compiled teacher takes
    batches of one size only.
    """

    def __init__(
        self,
        forward: TeacherForward,
        teachers: Sequence[FeatureNet],
        files: Sequence[RowFile],
        *,
        views: int,
        half: bool,
        whole_from: float = 1.0,
    ) -> None:
        self.forward, self.views, self.half, self.whole_from = forward, views, half, whole_from
        self._files = {id(net): file for net, file in zip(teachers, files, strict=True)}
        self.lookups = self.hits = 0

    def __call__(self, teacher: FeatureNet, batch: Batch) -> Outputs:
        file, crop = self._files.get(id(teacher)), batch.crop if isinstance(batch, CroppedBatch) else None
        if file is None or crop is None or self.half != torch.is_autocast_enabled(batch.inputs.device.type):
            return self.forward(teacher, batch)
        keys = (batch.index * self.views + crop).cpu().numpy()
        values, known = file.read(keys)
        self.lookups, self.hits = self.lookups + len(keys), self.hits + int(known.sum())
        if not known.all():
            new = ~known if 1 - known.mean() < self.whole_from else np.ones_like(known)
            values[new] = answer = self._run(teacher, batch, torch.from_numpy(new), file.width)
            file.write(keys[new], answer)
        rows = torch.from_numpy(values).to(batch.inputs.device).float()
        classes = teacher.num_classes
        logits: Any = rows[:, :classes] if classes else None
        embedding: Any = rows[:, classes:] if file.width > classes else NotCached("embedding")
        return Outputs(logits, NotCached("features"), embedding)

    def _run(self, teacher: FeatureNet, batch: Batch, rows: Tensor, width: int) -> Any:
        outputs = self.forward(teacher, batch if rows.all() else batch.only(rows.to(batch.inputs.device)))
        parts = [outputs.embedding] if outputs.logits is None else [outputs.logits, outputs.embedding]
        values = torch.cat(parts, 1)[:, :width]
        return values.half().cpu().numpy()

    def hit_rate(self) -> float:
        """Which share of the look-ups found a row."""
        return self.hits / max(self.lookups, 1)


class NotCached(list[Tensor]):
    """Stands where a cached teacher has no maps or no embedding: whoever reads them is told what to do."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def _refuse(self, *_: Any) -> NoReturn:
        raise ValueError(
            f"the method reads the teacher's {self.what}, which no teacher cache holds: name them in "
            "method.about.taps of its YAML, or use teacher.cache=off."
        )

    __getitem__ = __iter__ = __len__ = _refuse  # type: ignore[assignment]
    __add__ = __sub__ = __rsub__ = __mul__ = __truediv__ = __matmul__ = _refuse  # type: ignore[assignment]

    def __getattr__(self, name: str) -> NoReturn:
        """Whatever a tensor has. Only for names that a list does not have."""
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        next(value for value in (*args, *(kwargs or {}).values()) if isinstance(value, cls))._refuse()


def make_cache(
    setting: Any,
    forward: TeacherForward,
    teachers: Sequence[Teacher],
    data: Data,
    *,
    reads: Collection[str],
    precision: str,
    folder: Path,
    compiled: bool,
    mixup: bool,
) -> TeacherCache | None:
    """Return `asks` behind a cache where teacher.cache=`setting` and the run allow it, or None and say why.

    reads: what the methods read of a teacher, as in about.taps.
    """
    setting = "off" if setting in (None, False) else str(setting)
    kind = next((kind for kind in HOLDS if set(reads) <= HOLDS[kind]), None)
    if setting == "off":
        return None
    if why := _why_not_cached(setting, kind, teachers, data, reads, precision, folder, mixup):
        log.info("the teacher is asked at every step: %s", why)
        return None
    kind, views = kind if setting == "auto" else setting, data.view_count
    assert kind and views
    border = "" if data.pad_mode == "zeros" else f"/{data.pad_mode}"
    border += f"/{data.resize}-{data.info.size}" if data.resize else ""
    known_by = f"{_digest_of(data)}/{views}{border}/{precision}"
    try:
        files = [
            RowFile(folder / f"{_key(each, known_by)}.{kind}", len(data.train) * views, _width(each, kind))
            for each in teachers
        ]
    except OSError as error:
        log.warning("the teacher is asked at every step: no cache can be kept in %s (%s)", folder, error.strerror)
        return None
    what = "logits" if kind == "logits" else "logits and embedding"
    log.info("the teacher's %s are kept in %s", what, ", ".join(str(file.path) for file in files))
    nets, whole_from = [each.net for each in teachers], 0.5 if compiled else 1.0
    return TeacherCache(forward, nets, files, views=views, half=precision != "fp32", whole_from=whole_from)


def _why_not_cached(
    setting: str,
    kind: str | None,
    teachers: Sequence[Teacher],
    data: Data,
    reads: Collection[str],
    precision: str,
    folder: Path,
    mixup: bool,
) -> str | None:
    """Why nothing is cached, or None."""
    if kind is None:
        return f"the method reads its {', '.join(sorted(set(reads) - HOLDS['embedding']))}"
    if setting == "logits" and kind != "logits":
        return "the method reads its embedding, which teacher.cache=embedding holds and teacher.cache=logits does not"
    if data.view_count is None or mixup:
        return "mixed images are never the same twice" if mixup else "its views of an image are without number"
    if setting != "auto":
        return None
    if precision == "fp32":
        return "a cache would round what precision=fp32 computes to half floats (teacher.cache=embedding does it)"
    if data.train.images.device.type != "cpu":
        return "on a GPU every look-up would wait for the device"
    size = sum(len(data.train) * data.view_count * 2 * (_width(each, kind) + CHECKSUM) for each in teachers)
    parent = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    if FREE * size > shutil.disk_usage(parent).free:
        return f"a cache may grow to {size / 2**30:.1f} GiB, and less than {FREE} times that is free in {parent}"
    return None


def _width(teacher: Teacher, kind: str) -> int:
    return teacher.net.num_classes + (teacher.net.embedding_dim if kind == "embedding" else 0)


def _key(teacher: Teacher, known_by: str) -> str:
    return hashlib.sha256(f"{teacher.fingerprint}/{known_by}".encode()).hexdigest()[:16]


def _digest_of(data: Data) -> str:
    """A hash of the training images and of how a teacher sees them."""
    seen = data.info.for_teacher
    digest = hashlib.sha256(f"{seen.mean}/{seen.std}/{seen.view}/{data.train.images.shape}".encode())
    digest.update(data.train.images.cpu().contiguous().numpy().data)
    return digest.hexdigest()
