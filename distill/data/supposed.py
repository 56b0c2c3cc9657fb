"""A source of images that are not loaded: as many as there will be, for what is asked of it before one is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from distill.batch import Source
from distill.config import DataSpec
from distill.data.augment import of as augment_of
from distill.data.dataset import Data, resize_of
from distill.data.info import DataInfo, Split
from distill.data.modality import Views, views_of


def supposed_source(spec: DataSpec, info: DataInfo, **options: Any) -> Source:
    """The training batches of data of which `info` is known, but for their pixels; options are those of ArraySource.

    Raises ValueError as the source of the data themselves would.
    """
    plain = replace(info, in_chans=spec.in_chans, mean=spec.mean, std=spec.std, view=None, teacher=None)
    views = views_of(spec.views, plain, depth="depth" in spec.views.values())[1]
    if spec.kind == "folder":
        return _of_files(spec, info, views, options)
    chans = spec.in_chans
    images = torch.zeros((1, 1, 1, 1), dtype=torch.uint8).expand(info.num_train, info.size, info.size, chans)
    shown: Any = {"views": views, "augment": augment_of(spec, info.size, chans, spec.mean), "resize": resize_of(spec)}
    split = Split(images, info.labels)
    data = Data(info, split, None, spec.pad, spec.flip, pad_mode=spec.pad_mode, erasing=spec.erasing, **shown)
    return data.source(**options)


def _of_files(spec: DataSpec, info: DataInfo, views: Views | None, options: dict[str, Any]) -> Source:
    from distill.data.folder import FolderData, FolderSplit  # imports Pillow
    from distill.data.timm_transforms import timm_transforms_of

    labels = None if info.labels is None else info.labels.numpy()
    split = FolderSplit([""] * info.num_train, labels, 0, torch.device("cpu"), resize=resize_of(spec),
                        timm_transforms=timm_transforms_of(spec))  # fmt: skip
    return FolderData(info, split, None, pad=0, flip=spec.flip, views=views, erasing=spec.erasing).source(**options)
