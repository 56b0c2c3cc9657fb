"""Augmented batches from images that lie on the device as one array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import distill.parallel as parallel
from distill.batch import Batch, CroppedBatch
from distill.data.augment import Augment, Epoch
from distill.data.class_batches import ClassBatches
from distill.data.crops import bordered, resized_to, windows
from distill.data.erasing import ERASING_STREAM, erase
from distill.data.info import DataInfo, Split
from distill.data.mixup import STREAM, mix
from distill.data.modality import View, Views
from distill.data.order import cut_up, order_of, part_of_epoch, steps_for, times_shown


def seeded(*keys: int) -> torch.Generator:
    """A CPU generator for keys such as (seed, epoch); neighbouring keys give unrelated streams."""
    digest = hashlib.sha256("/".join(str(int(key)) for key in keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))  # the generator reads 32 bits


def recipe(source: Any, batch: Batch, epoch: int, step: int) -> Batch:
    """The batch as the recipe of a source has it: boxes erased, then mixed. A pure function of (seed, epoch, step)."""
    keys = source.seed, epoch, step
    if source.erasing:
        erase(batch, source.erasing, seeded(*keys, ERASING_STREAM))
    if not (source.mixup or source.cutmix):
        return batch
    return mix(batch, source.mixup, source.info.num_classes, seeded(*keys, STREAM), source.cutmix)


class Normaliser:
    """uint8 images [B,H,W,C] to float [B,C,H,W] in channels_last memory: (x / 255 - mean) / std a channel.

    Bitwise what torchvision's ToTensor and Normalize give, on every device: the divisors are tensors, since
    CUDA multiplies by the reciprocal of a Python number. Constants of image shape keep CPU loops long.
    """

    def __init__(self, info: DataInfo, shape: torch.Size | tuple[int, ...], device: torch.device) -> None:
        self.full = torch.tensor(255.0, device=device)
        self.mean = torch.tensor(info.mean, device=device).expand(shape).contiguous()
        self.std = torch.tensor(info.std, device=device).expand(shape).contiguous()

    def __call__(self, images: Tensor) -> Tensor:
        scaled = images.float().div_(self.full).sub_(self.mean).div_(self.std)
        return scaled.permute(0, 3, 1, 2)


class _Plan(NamedTuple):
    """All that is random in an epoch of P images, on the device, in the order in which they are seen."""

    order: Tensor  # [P] int64: image order[k] is the k-th to be seen
    draws: Tensor  # [P,4] int64, a row an image: dy, dx, flip, view = (dy * places + dx) * 2 + flip
    augment: Epoch | None = None
    more: Tensor | None = None  # [crops - 1,P,3] int64: dy, dx, flip of the further crops


class ArraySource:
    """Batches of randomly cropped and flipped images; an epoch is a pure function of (seed, epoch).

    The order, and a crop and a flip for each of the N images, are drawn on the CPU when the epoch starts, so
    an image's view does not depend on the batch size. No step waits for the device.

    pad_mode: what lies around an image, zeros or its reflection. augment: what crops undergo besides.
    crops: how many crops of each image, with the one flip; those after the first are views, see `cropped`.
    resize: pixels that images are brought to before they are padded and crops of info.size drawn; 0: as they are.
    per_class: images of each class in a batch, see `ClassBatches`; 0: every image once an epoch, as it comes.
    drawn: batches of an epoch, each of batch_size images drawn with replacement; 0: every image once an epoch.
    last_batch: what becomes of the images that are left over, see `cut_up`.
    mixup, cutmix, erasing: see `recipe`. repeats: how often an image of an epoch is shown in it, see `order_of`.

    Raises ValueError for a batch size below 1, for last_batch="drop" with fewer images than a batch, and for batches
    that `per_class` cannot fill.
    """

    def __init__(
        self,
        split: Split,
        info: DataInfo,
        *,
        batch_size: int,
        seed: int,
        pad: int = 4,
        pad_mode: str = "zeros",
        flip: bool = True,
        crops: int = 1,
        resize: int = 0,
        augment: Augment | None = None,
        last_batch: str = "keep",
        per_class: int = 0,
        drawn: int = 0,
        views: Views | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        erasing: float = 0.0,
        repeats: int = 1,
    ) -> None:
        self.settings: dict[str, Any] = dict(
            split=split, info=info, batch_size=batch_size, seed=seed, pad=pad, pad_mode=pad_mode, flip=flip,
            crops=crops, resize=resize, augment=augment, last_batch=last_batch, per_class=per_class, drawn=drawn,
            views=views, mixup=mixup, cutmix=cutmix, erasing=erasing, repeats=repeats,
        )  # fmt: skip
        self.mixup, self.cutmix, self.erasing = mixup, cutmix, erasing
        self.repeats = times_shown(repeats, per_class, drawn)
        self.split, self.info, self.batch_size, self.seed = split, info, batch_size, seed
        self.pad, self.pad_mode, self.flip, self.further, self.augment = pad, pad_mode, flip, crops - 1, augment
        self.resize, self.places = resize, places(resize or info.size, pad, info.size)
        self.steps, self.end = cut_up(len(split), batch_size, "drop" if per_class else last_batch)
        if drawn:
            self.steps, self.end = drawn, drawn * batch_size
        self.drawn = bool(drawn and not per_class)
        self.classes = ClassBatches(info.classes, batch_size, per_class, parallel.world()) if per_class else None
        self.shown = self.steps * batch_size if per_class or drawn else len(split)  # positions in an epoch
        self.views = views
        shape = (info.size, info.size, split.images.shape[3])
        self.normalise: Callable[[Tensor], Tensor] = (
            views.student if views else Normaliser(info, shape, split.images.device)
        )
        self._crops: Tensor | None = None

    def replace(self, **changes: Any) -> ArraySource:
        """The same source with other keyword arguments, such as last_batch="drop" or flip=False."""
        other = type(self)(**{**self.settings, **changes})
        if other.split is self.split and (other.pad, other.pad_mode) == (self.pad, self.pad_mode):
            other._crops = self._crops  # the padded images are shared
        return other

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on, as they are in the whole epoch."""
        plan = self._plan(epoch)
        for step in range(start, self.steps):
            yield self._batch(plan, epoch, step)

    def _batch(self, plan: _Plan, epoch: int, step: int) -> Batch:
        part = part_of_epoch(self, step)
        rows, draws = plan.order[part], plan.draws[part]
        drawn = [draws] if plan.more is None else [draws, *plan.more[:, part]]
        pixels = [self.cut(rows, each) for each in drawn]
        if plan.augment:
            pixels = [plan.augment(each, step) for each in pixels]
        images, views = cropped(pixels, self.normalise, self.views)
        crop = None if plan.augment or self.erasing else draws[:, 3]
        labels = None if self.split.labels is None else self.split.labels[rows]
        batch = CroppedBatch(inputs=images, labels=labels, index=rows, views=views, crop=crop)
        return recipe(self, batch, epoch, step)

    def _plan(self, epoch: int) -> _Plan:
        places, device = self.places, self.split.images.device
        generator = seeded(self.seed, epoch)
        order, each_once = order_of(self, generator)
        dy, dx = torch.randint(places, (2, len(order)), generator=generator)
        flip = torch.randint(2, (len(order),), generator=generator) * int(self.flip)
        draws = torch.stack([dy, dx, flip, (dy * places + dx) * 2 + flip], dim=1)
        draws = draws[order] if each_once else draws  # drawn for image 0, 1, ...: seen once, whatever the order
        augment, more = self.augmented(generator), None
        if self.further:
            where = torch.randint(places, (self.further, len(order), 2), generator=generator)
            more = torch.cat([where, draws[:, 2:3].expand(self.further, -1, 1)], dim=2).to(device)
        return _Plan(order.to(device), draws.to(device), augment, more)

    def augmented(self, generator: torch.Generator) -> Epoch | None:
        """What `augment` draws for an epoch, if there is one."""
        if not self.augment:
            return None
        merged = self.steps if self.end > self.steps * self.batch_size else None
        return self.augment.epoch(generator, self.shown, self.batch_size, self.split.images.device, merged)

    def cut(self, rows: Tensor, draws: Tensor) -> Tensor:
        """The crops and flips uint8 [B,S,S,C] of images `rows` [B]; draws [B,3 or more] are dy, dx, flip, ..."""
        if self.resize:  # by batch: a data set of 160 pixels an image is 25 times as large as CIFAR
            shown = windows(bordered(resized_to(self.split.images[rows], self.resize), self.pad, self.pad_mode),
                            self.info.size)
            images = shown[torch.arange(len(rows), device=rows.device), draws[:, 0], draws[:, 1]]
        else:
            images = self.crops[rows, draws[:, 0], draws[:, 1]]
        if self.flip:
            images = torch.where(draws[:, 2].bool()[:, None, None, None], images.flip(2), images)
        return images

    @property
    def crops(self) -> Tensor:
        """[N,P,P,H,W,C] uint8, P = 2 * pad + 1: every crop of every padded image, as windows on one array."""
        if self._crops is None:
            self._crops = windows(bordered(self.split.images, self.pad, self.pad_mode), self.info.size)
        return self._crops


def places(side: int, pad: int, size: int) -> int:
    """How many places a crop of `size` pixels has along an axis of `side` pixels with a border of `pad`.

    Raises ValueError where the crop is larger than the image with its border.
    """
    count = side + 2 * pad - size + 1
    if count < 1:
        raise ValueError(f"crops of {size} pixels do not fit in images of {side}: raise dataset.resize, or lower size")
    return count


def cropped(
    pixels: Sequence[Tensor], normalise: Callable[[Tensor], Tensor], views: Views | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch's images and views, of the pixels [B,H,W,C] of each crop: the further crops are views "crop_1", ...,
    and where the teacher sees images of another kind, "teacher", "teacher_crop_1", ...
    """
    images, taught = {}, {}
    for k, each in enumerate(pixels):
        images[f"crop_{k}"] = normalise(each)
        if views:
            taught[f"teacher_crop_{k}" if k else "teacher"] = views.teacher(each)
    return images.pop("crop_0"), images | taught


class SharedSource(ArraySource):
    """Gathers a batch once for all the loops that come to it one after the other, as packed runs do.

    prepare: what is done to a batch before the first of them gets it.
    """

    def __init__(self, *args: Any, prepare: Callable[[Batch], Batch] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._prepare = prepare
        self._planned: tuple[int, _Plan] | None = None
        self._latest: tuple[int, int, Batch] | None = None  # epoch and step, and the batch of that step

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on; loops in step get the same tensors."""
        for step in range(start, self.steps):
            yield self._shared(epoch, step)

    def _shared(self, epoch: int, step: int) -> Batch:
        if self._latest is None or self._latest[:2] != (epoch, step):
            if self._planned is None or self._planned[0] != epoch:
                self._planned = (epoch, self._plan(epoch))
            batch = self._batch(self._planned[1], epoch, step)
            self._latest = epoch, step, self._prepare(batch) if self._prepare else batch
        latest = self._latest[2]
        return replace(latest, views=dict(latest.views))


def evaluation_batches(
    split: Split, info: DataInfo, batch_size: int, view: View | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (normalised images [B,C,S,S], labels [B]) in the set's order, whole, brought to the size S of the data.

    Raises ValueError for a batch size below 1.
    """
    assert split.labels is not None, "nothing is evaluated on images without labels"
    normalise = view or Normaliser(info, (info.size, info.size, split.images.shape[3]), split.images.device)
    for step in range(steps_for(len(split), batch_size, drop_last=False)):
        part = slice(step * batch_size, (step + 1) * batch_size)
        yield normalise(resized_to(split.images[part], info.size)), split.labels[part]
