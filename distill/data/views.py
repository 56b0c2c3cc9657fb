"""What happens to one image of a folder, in a worker process: decode, crop, flip."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from distill.content.decode import UNREADABLE, DecodeOptions, decoded, drafted, exif_transposed, pixels
from distill.content.examine import reason
from distill.data.timm_transforms import TimmTransforms, transformed_by_seed

Key = tuple[int, int | None]  # (position of the image, seed of its crop and flip; None: the evaluation view)


class Images(Dataset[tuple[Any, ...] | str]):
    """Cropped and flipped images uint8 [S,S,C] with label and position, or a sentence on what went wrong.

    labels: 0 for all where there are none. sizes: T of further copies uint8 [T,T,C] of the first crop, which come last.
    crops: how many crops of each image, with the one flip, one after the other along the channels.
    resize: pixels that an image is brought to, both ways, before a crop is drawn; 0: random resized crops.
    looks: by which of timm's transforms images are seen; None: cropped and flipped alone.
    draft: large JPEGs are decoded smaller for training, where a view keeps as many pixels as it is shown with.
    """

    def __init__(
        self,
        paths: list[str],
        labels: np.ndarray | None,
        size: int,
        reading: DecodeOptions,
        flip: bool,
        depth: list[str] | None = None,
        crops: int = 1,
        resize: int = 0,
        timm_transforms: TimmTransforms | None = None,
        sizes: Sequence[int] = (),
        draft: bool = False,
    ) -> None:
        self.paths, self.size, self.flip = paths, size, flip
        self.labels = np.zeros(len(paths), dtype=np.int64) if labels is None else labels
        self.sizes = tuple(sizes)
        self.reading, self.depth = reading, depth
        self.crops, self.resize, self.draft = crops, resize, draft
        self.timm_transforms, self.filter = timm_transforms, (timm_transforms or TimmTransforms()).filter

    @cached_property
    def transforms(self) -> dict[int, Callable[[Image.Image], Image.Image]]:
        """timm's by size, made where they are used: in the worker, and in training alone."""
        made = self.timm_transforms
        return {size: made.transform(size, self.flip) for size in (self.size, *self.sizes)} if made else {}

    def __getitem__(self, key: Key) -> tuple[Any, ...] | str:
        position, view = key
        path = self.paths[position]
        whole = None
        try:
            if self.draft and view is not None:
                image, whole = drafted(path, self.reading, partial(self._shrink, view))
                images = [image]
            else:
                images = [decoded(path, self.reading)]
            if self.depth is not None:
                path = self.depth[position]
                images.append(read_depth(images[0], path, self.reading))
        except UNREADABLE as error:
            return f"{path} cannot be decoded ({reason(error)}): replace the image or remove it"
        shown = [self._pixels(image, view, crop, self.size, whole) for crop in range(self.crops) for image in images]
        pixels = torch.from_numpy(np.concatenate(shown, axis=2))
        more = [
            np.concatenate([self._pixels(each, view, 0, size, whole) for each in images], axis=2) for size in self.sizes
        ]
        return pixels, int(self.labels[position]), position, *map(torch.from_numpy, more)

    def _shrink(self, view: int, width: int, height: int) -> int:
        """The largest of 1, 2, 4 and 8 that leaves every view of the image the pixels that it is shown with."""
        shown = max(self.size, *self.sizes, self.resize)
        sides = [min(width, height) / shown] if self.resize else [
            min(right - left, bottom - top) / shown
            for left, top, right, bottom in (drawn_crop(width, height, view, crop)[0] for crop in range(self.crops))
        ]  # fmt: skip
        return next((by for by in (8, 4, 2) if by <= min(sides)), 1)

    def _pixels(
        self, image: Any, view: int | None, crop: int, size: int, whole: tuple[int, int] | None = None
    ) -> np.ndarray:
        """The image's view uint8 [size,size,C]; images of one size get the same crop and flip."""
        if view is None:
            image = squeezed(image, size) if self.resize else evaluation_view(image, size, self.filter)
        elif self.timm_transforms:
            image = transformed_by_seed(view, self.transforms[size], image)
        elif self.resize:
            image = random_window(squeezed(image, self.resize), self.size, self.flip, view, crop)
            image = image if size == self.size else squeezed(image, size)
        else:
            image = random_view(image, size, self.flip, view, crop, whole)
        return np.array(image, dtype=np.uint8).reshape(size, size, -1)


def read_depth(image: Image.Image, path: str, reading: DecodeOptions) -> Image.Image:
    """The depth image of a file as 8-bit grey, of 16 bits the upper eight, in the size of the image that it belongs to.

    Raises ValueError where one of the two stands and the other lies.
    """
    with Image.open(path) as file:
        if file.mode.startswith("I"):
            deep = np.asarray(exif_transposed(file, reading.exif)).astype(np.int64) >> 8
            depth = Image.fromarray(deep.clip(0, 255).astype(np.uint8))
        else:
            depth = pixels(file, replace(reading, mode="L"))
    if (depth.width - depth.height) * (image.width - image.height) < 0:
        raise ValueError("it is on its side beside its image: see dataset.exif")
    return depth.resize(image.size, Image.Resampling.NEAREST)


def random_view(
    image: Any, size: int, flip: bool, seed: int, crop: int = 0, whole: tuple[int, int] | None = None
) -> Any:
    """RandomResizedCrop(size) and a horizontal flip of a PIL image, drawn from the seed.

    crop: 0, or the number of a further crop, which has the same flip. whole: the size of a picture that was decoded
    smaller, of which the same part is shown.
    """
    width, height = whole or image.size
    box, mirrored = drawn_crop(width, height, seed, crop)
    if (width, height) == image.size:
        image = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    else:
        across, down = image.width / width, image.height / height
        part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=part)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored and flip else image


def drawn_crop(width: int, height: int, seed: int, crop: int = 0) -> tuple[tuple[int, int, int, int], bool]:
    """The crop of an image of that size that a seed stands for, and whether it is mirrored; `crop` as `random_view`."""
    draw = random.Random(seed)
    box = random_crop(width, height, draw)
    mirrored = draw.random() < 0.5
    if crop:
        box = random_crop(width, height, random.Random(f"{seed}/{crop}"))
    return box, mirrored


def squeezed(image: Any, side: int) -> Any:
    """The whole PIL image at side x side, whatever its shape was."""
    return image.resize((side, side), Image.Resampling.BILINEAR)


def random_window(image: Any, size: int, flip: bool, seed: int, crop: int = 0) -> Any:
    """RandomCrop(size) and a horizontal flip of a PIL image, drawn from the seed; `crop` as in `random_view`."""
    draw = random.Random(seed)
    left, top, mirrored = *(draw.randint(0, side - size) for side in image.size), draw.random() < 0.5 and flip
    if crop:
        draw = random.Random(f"{seed}/{crop}")
        left, top = (draw.randint(0, side - size) for side in image.size)
    image = image.crop((left, top, left + size, top + size))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def shape_of(path: str) -> tuple[int, int]:
    """Height and width of an image file. Raises ValueError where it is none."""
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be decoded ({reason(error)}): replace the image or remove it") from error


def random_crop(width: int, height: int, draw: random.Random) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop: (left, top, right, bottom), 8 to 100 % of the area, 3:4 to 4:3.

    After ten draws that do not fit in the image it is the largest centre crop.
    """
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area = width * height * draw.uniform(0.08, 1.0)
        aspect = math.exp(draw.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


def evaluation_view(image: Any, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> Any:
    """The shorter side to size * 256 / 224, then the centre: torchvision's Resize and CenterCrop."""
    short = size * 256 // 224
    long = int(short * max(image.size) / min(image.size))
    shape = (short, long) if image.width <= image.height else (long, short)
    image = image.resize(shape, resample)
    left, top = round((shape[0] - size) / 2.0), round((shape[1] - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def collate(items: Sequence[tuple[Any, ...] | str]) -> tuple[Tensor, ...] | str:
    """images uint8 [B,S,S,C], labels [B], index [B], and [B,T,T,C] of each further size; or the first complaint."""
    good = [item for item in items if not isinstance(item, str)]
    if len(good) < len(items):
        return next(item for item in items if isinstance(item, str))
    images, labels, index, *more = zip(*good, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(index), *map(torch.stack, more)
