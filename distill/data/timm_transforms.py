"""How timm's transforms show the images of a folder: RandAugment or AutoAugment, colour jitter, interpolation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from distill.config import DataSpec


@dataclass(frozen=True)
class TimmTransforms:
    """dataset.auto_augment, color_jitter and interpolation; mean: of the data, which fills what a turn lays bare."""

    auto_augment: str | None = None
    color_jitter: float = 0.0
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def filter(self) -> Image.Resampling:
        """How images are made smaller for evaluation."""
        return Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR

    def transform(self, size: int, flip: bool) -> Callable[[Image.Image], Image.Image]:
        """timm's training transform up to pixels: random resized crop, flip, policy or jitter."""
        from timm.data.transforms_factory import create_transform  # imports timm, which takes seconds

        made = create_transform(
            size,
            is_training=True,
            use_prefetcher=True,  # pixels: boxes are erased, and values normalised, on the device
            hflip=0.5 if flip else 0.0,
            auto_augment=self.auto_augment,
            color_jitter=self.color_jitter or None,  # type: ignore[arg-type]
            interpolation=self.interpolation,
            mean=self.mean,
        )
        made.transforms.pop()  # to an array
        _with_posterize(made)
        return made  # type: ignore[no-any-return]


def _with_posterize(transform: Any) -> None:
    """Let policies keep no bit, as strong magnitudes of timm ask and Pillow refuses by now."""
    from timm.data import auto_augment

    for part in transform.transforms:
        policies = [getattr(part, "ops", ()), *getattr(part, "policy", ())]
        for op in (op for policy in policies for op in policy):
            if getattr(op, "aug_fn", None) is auto_augment.posterize:
                op.aug_fn = posterized


def posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """The image with the upper `bits` (0 to 8) of each value, as Pillow's posterize computes it."""
    kept = ~(2 ** (8 - min(bits, 8)) - 1)
    return image.point([value & kept for value in range(256)] * len(image.getbands()))


def timm_transforms_of(spec: DataSpec) -> TimmTransforms | None:
    """What a folder's keys ask of timm's transforms; None where they ask for nothing. Raises ValueError."""
    asked = [key for key in ("auto_augment", "color_jitter", "interpolation") if getattr(spec, key)]
    if not asked:
        return None
    first = f"dataset.{asked[0]}={getattr(spec, asked[0])}"
    if spec.in_chans != 3:
        raise ValueError(f"{first} is for colour images, dataset.in_chans=3: leave it null")
    if spec.resize:
        raise ValueError(f"{first} belongs to random resized crops: leave dataset.resize null")
    if "depth" in spec.views.values():
        raise ValueError(f"{first} would not show image and depth alike: leave it null")
    if spec.auto_augment and spec.color_jitter:
        raise ValueError("dataset.color_jitter has no effect beside dataset.auto_augment: leave one of them null")
    mean = tuple(spec.mean)
    return TimmTransforms(spec.auto_augment, spec.color_jitter, spec.interpolation or "bilinear", mean)


def transformed_by_seed(seed: int, transform: Callable[[Any], Any], image: Any) -> Any:
    """What a transform makes of an image, all that it draws from Python's, NumPy's and torch's global generators
    coming from the seed; they are left as they were, but in a worker, where nobody else draws.
    """
    alone = get_worker_info() is not None
    kept = None if alone else (random.getstate(), np.random.get_state(), torch.get_rng_state())
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        return transform(image)
    finally:
        if kept:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            torch.set_rng_state(kept[2])
