"""The training images as evaluation would show them, for what is measured of a teacher before training begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from distill.data.arrays import evaluation_batches
from distill.data.info import Split


def training_images(source: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (normalised images [B,C,S,S], labels [B]) of a source's images as the teacher sees them, each once and in
    the set's order, neither cropped at random nor flipped nor mixed.
    """
    view = source.views.teacher if source.views else None
    if isinstance(source.split, Split):
        return evaluation_batches(source.split, source.info, source.batch_size, view)
    from distill.data.folder import decoded_batches  # imports Pillow

    return decoded_batches(source.split, source.info, source.batch_size, view)
