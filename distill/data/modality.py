"""What teacher and student see of one sample: colour, grey, lightness, chrominance, fewer pixels, depth.

A view turns the same cropped and flipped pixels into what one side's net takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.data.info import DataInfo

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as for grey JPEGs
XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
KNOWN = "gray, L, ab, low-<pixels> or depth"


def constant(values: Any, like: Tensor) -> Tensor:
    """A number, or nested tuples of them, as a tensor beside `like`; it is not to be written to."""
    return _constant(values, like.dtype, like.device)


@cache
def _constant(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)  # once: a copy to the device waits for it


def to_gray(rgb: Tensor) -> Tensor:
    """Luma [B,1,H,W] of images [B,3,H,W] in 0..1."""
    return (rgb * constant(LUMA, rgb).view(1, 3, 1, 1)).sum(1, keepdim=True)


def to_lab(rgb: Tensor) -> Tensor:
    """CIE L*a*b* [B,3,H,W] of sRGB images [B,3,H,W] in 0..1, for D65 white; L is 0..100.

    Exact by IEC 61966-2-1 (linear light) and CIE 15 (cube root, linear below (6/29)^3).
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,bjhw->bihw", constant(XYZ, linear), linear)
    t = xyz / constant(WHITE, xyz).view(1, 3, 1, 1)
    f = torch.where(t > (6 / 29) ** 3, t.clamp(min=1e-9) ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lower(images: Tensor, pixels: int) -> Tensor:
    """Images [B,C,H,W] as a sensor of pixels x pixels has them: averaged, and enlarged to H x W again
    (bilinear).
    """
    small = F.interpolate(images, (pixels, pixels), mode="area")
    return F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False)


@dataclass
class View:
    """One side's view: `convert` makes [B,C,S,S] of pixels [B,P,S,S] in 0..1; mean and std are those of its
    units.
    """

    name: str
    convert: Callable[[Tensor], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 pixels [B,S,S,P] to normalised images [B,C,S,S] in channels_last memory."""
        pixels = pixels.float()
        seen = self.convert((pixels / constant(255.0, pixels)).permute(0, 3, 1, 2))
        mean, std = (constant(v, pixels).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return ((seen - mean) / std).contiguous(memory_format=torch.channels_last)

    def describe(self, base: DataInfo) -> DataInfo:
        """The data as this side sees it."""
        return replace(
            base, in_chans=len(self.mean), mean=self.mean, std=self.std, view=self.name, teacher=None
        )


class Views(NamedTuple):
    student: View
    teacher: View


def make_view(name: Any, base: DataInfo, depth: bool) -> View:
    """The view that dataset.views names; null is the images as they are. Raises ValueError for what cannot
    be made.
    """
    chans, text = base.in_chans, str(name or "as it is")
    if not name:
        return View(text, lambda x: x[:, :chans], base.mean, base.std)
    if text.startswith("low-") and text[4:].isdigit():
        pixels = int(text[4:])
        if not 0 < pixels < base.size:
            raise ValueError(
                f"dataset.views has {text}, but images have {base.size} pixels: give 1 to {base.size - 1}."
            )
        return View(text, lambda x: lower(x[:, :chans], pixels), base.mean, base.std)
    if text == "depth":
        if not depth:
            raise ValueError("dataset.views has depth, which only folders of pairs hold: use dataset=folder.")
        return View(text, lambda x: x[:, chans:], (0.5,), (0.25,))
    if text not in ("gray", "L", "ab"):
        raise ValueError(f"dataset.views has {text}: it is {KNOWN}, or null for the images as they are.")
    if chans != 3:
        raise ValueError(f"dataset.views has {text}, which is made of 3 channels: {base.name} has {chans}.")
    return colour_view(text, base)


def colour_view(name: str, base: DataInfo) -> View:
    """gray, L or ab of colour images; grey keeps the data's statistics, Lab is brought to about -2..2."""
    if name == "gray":
        mean, std = (
            sum(w * v for w, v in zip(LUMA, values, strict=True)) for values in (base.mean, base.std)
        )
        return View(name, lambda x: to_gray(x[:, :3]), (mean,), (std,))
    if name == "L":
        return View(name, lambda x: to_lab(x[:, :3])[:, :1], (50.0,), (25.0,))
    return View(name, lambda x: to_lab(x[:, :3])[:, 1:], (0.0, 0.0), (20.0, 20.0))


def views_of(asked: Mapping[str, Any], base: DataInfo, depth: bool = False) -> tuple[DataInfo, Views | None]:
    """DataInfo as the student sees it, `teacher` within, and both views; (base, None) where `asked`, dataset.views,
    asks for none.
    """
    if unknown := set(asked) - {"teacher", "student"}:
        raise ValueError(
            f"dataset.views has no {', '.join(sorted(unknown))}: its keys are teacher and student."
        )
    if not any(asked.values()):
        return base, None
    make = partial(make_view, base=base, depth=depth)
    views = Views(make(asked.get("student")), make(asked.get("teacher")))
    return replace(views.student.describe(base), teacher=views.teacher.describe(base)), views
