"""Further images beside those of a batch: other views of the same images, or partners of the same class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor

from distill.batch import Batch
from distill.data.arrays import ArraySource, seeded
from distill.data.folder import FolderSource
from distill.data.mixup import refuse_mixed
from distill.data.order import size_of_step
from distill.data.waiting import WaitTimer

_STREAM = 0x9A  # tells these generators' keys from those of the source's own plan

_Choice = Callable[[torch.Generator], Tensor]  # -> [N]: the image that is shown beside image i
Shows = Callable[[Batch, int], Tensor]  # (batch, its step) -> [B,C,H,W]


class ExtraViews:
    """The batches of a source, unchanged, with one more image an image under each of `names` in Batch.views.

    What is shown, and its crop and flip, come from a generator keyed by (seed, epoch, the name's number), so
    an epoch stays a pure function of (seed, epoch). Raises ValueError for sources of another kind, or that mix images.
    """

    def __init__(self, source: Any, names: Sequence[str], choose: _Choice) -> None:
        if not isinstance(source, ArraySource | FolderSource):
            raise ValueError(
                f"{type(source).__name__} cannot show further images beside its own: use a data set of "
                "arrays or a folder, or a method with one view, such as method=kd."
            )
        refuse_mixed(source)
        if source.repeats > 1 or source.erasing:
            raise ValueError(
                "images beside those of a batch are shown once an epoch, and whole: leave schedule.repeats and "
                "dataset.erasing null, or take a method with one view, such as method=kd"
            )
        self.source, self.steps, self.names, self.choose = source, source.steps, list(names), choose
        self.waits: WaitTimer | None = getattr(source, "waits", None)
        self._folders: list[_ExtraImages] = []
        if isinstance(source, FolderSource):
            self._folders = [_ExtraImages(source, number, choose) for number in range(len(self.names))]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
        if isinstance(self.source, FolderSource):
            shows = [self._from_folder(shown, epoch, start) for shown in self._folders]
        else:
            shows = [self._from_arrays(self.source, number, epoch) for number in range(len(self.names))]
        for step, batch in enumerate(self.source.epoch(epoch, start), start):
            for name, show in zip(self.names, shows, strict=True):
                batch.views[name] = show(batch, step)
            yield batch

    def read_ahead(self, epoch: int) -> None:
        """Let workers go to work on an epoch before its batches are asked for, if there are any."""
        if isinstance(self.source, FolderSource):
            for folder in (self.source, *self._folders):
                folder.read_ahead(epoch)

    def of_part(self, number: int, count: int) -> Self | None:
        """The same of every `count`-th image from `number` on, as `FolderSource.of_part`; None of arrays, too."""
        source = self.source.of_part(number, count) if isinstance(self.source, FolderSource) else None
        if source is None or type(self).epoch is not ExtraViews.epoch:
            return None
        own = copy(self)
        own.source = source
        own._folders = [part for each in self._folders if (part := each.of_part(number, count))]
        return own

    def whole_size(self, step: int) -> int:
        """Return how many images the batch of a step has, as `FolderSource.whole_size`."""
        return size_of_step(self.source, step)

    def _from_arrays(self, source: ArraySource, number: int, epoch: int) -> Shows:
        generator = seeded(source.seed, epoch, _STREAM, number)
        chosen, count = self.choose(generator), len(source.split)
        crops = torch.randint(source.places, (count, 2), generator=generator)
        flips = torch.randint(2, (count, 1), generator=generator) * int(source.flip)
        plan = torch.cat([chosen[:, None], crops, flips], dim=1).to(source.split.images.device)
        augment = source.augmented(generator)

        def show(batch: Batch, step: int) -> Tensor:
            shown = plan[batch.index]
            images = source.cut(shown[:, 0], shown[:, 1:])
            return source.normalise(augment(images, step) if augment else images)

        return show

    def _from_folder(self, shown: _ExtraImages, epoch: int, start: int) -> Shows:
        batches = shown.epoch(epoch, start)
        return lambda batch, step: next(batches).inputs


class _ExtraImages(FolderSource):
    """The images that are shown beside another source's, in its order."""

    def __init__(self, source: FolderSource, number: int, choose: _Choice) -> None:
        super().__init__(**source.settings)
        self.waits = source.waits
        self.number, self.choose = number, choose

    def _plan(self, epoch: int) -> list[list[tuple[int, int | None]]]:
        generator = seeded(self.seed, epoch, _STREAM, self.number)
        chosen = self.choose(generator).tolist()
        views = torch.randint(2**62, (len(self.split),), generator=generator).tolist()
        return [[(chosen[i], views[i]) for i, _ in batch] for batch in super()._plan(epoch)]


class PeerViews(ExtraViews):
    """views["peer_1"] ... views["peer_<count>"]: the batch's images, cropped and flipped for each peer."""

    def __init__(self, source: Any, count: int) -> None:
        def same(generator: torch.Generator) -> Tensor:
            return torch.arange(len(source.split))

        super().__init__(source, [f"peer_{k}" for k in range(1, count + 1)], same)


class Partners(ExtraViews):
    """views["partner"]: for every image one of its class, drawn anew in each epoch; at times itself, in another crop.

    The published samplers give N
    images followed by N partners; here the partners lie beside, so that labels, accuracy and speed count N.
    """

    def __init__(self, source: Any) -> None:
        def partner(generator: torch.Generator) -> Tensor:
            return same_class(source.info.classes, generator)

        super().__init__(source, ["partner"], partner)


def same_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each image [N] the position of one of its label, all alike: its own among them."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts  # place of each class's first image in `order`
    rank = (torch.rand(len(labels), generator=generator, dtype=torch.float64) * counts[labels]).long()
    return order[first[labels] + rank]
