"""A second, strongly augmented view of every batch: FixMatch's RandAugment and Cutout, as MLKD trains with.

Sohn et al., NeurIPS 2020, arXiv:2001.07685, appendix B; the constants of sunshangquan/logit-standardization-KD,
mdistiller/dataset/cifar100.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from distill.batch import Batch
from distill.data.arrays import ArraySource, seeded
from distill.data.augment import Augment, square_up_to
from distill.data.mixup import refuse_mixed

_STREAM = 0x57  # tells this generator's keys from those of the source's own plan
OPERATIONS, CUTOUT = 2, 0.5  # operations an image; the largest side of the blanked square, as a share of the image's
FILL = (125, 123, 114)  # of the square, in colour images


class StrongSource:
    """The batches of an ArraySource, with views["strong"] [B,C,H,W]: another crop and flip, RandAugment and Cutout.

    Two of fourteen operations, drawn with replacement, each magnitude uniform in its range, and one square of up to
    half the side. A pure function of (seed, epoch, step): all draws come from a generator keyed by seed and epoch, by
    position in the epoch; the source's own batches stay what they are. Raises ValueError for other sources, for
    channels other than 1 or 3, and for sources whose own images are turned or otherwise changed.
    """

    def __init__(self, source: Any) -> None:
        if not isinstance(source, ArraySource):
            raise ValueError(
                "the strong view is made of images that lie on the device: use a data set such as "
                "dataset=cifar100, or a method with one view, such as method=dkd."
            )
        chans, size = source.split.images.shape[3], source.info.size
        if chans not in (1, 3):
            raise ValueError(
                f"RandAugment knows grey and colour images, and those of {source.info.name} have "
                f"{chans} channels: set dataset.in_chans=3 or use one view, as method=dkd."
            )
        if source.augment or source.erasing:
            raise ValueError(
                "beside the strong view the weak one is cropped and flipped alone: leave dataset.rotate, randaugment, "
                "cutout and erasing null, or use a method with one view, such as method=dkd."
            )
        refuse_mixed(source)
        self.source, self.steps = source, source.steps
        fill = FILL if chans == 3 else [round(255 * source.info.mean[0])]
        self.augment = Augment(size, operations=OPERATIONS, boxes=square_up_to(CUTOUT, size), fill=fill)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
        source, size = self.source, self.source.batch_size
        count, device = source.shown, source.split.images.device
        generator = seeded(source.seed, epoch, _STREAM)
        crops = torch.randint(source.places, (count, 2), generator=generator)
        flips = torch.randint(2, (count, 1), generator=generator) * int(source.flip)
        draws = torch.cat([crops, flips], dim=1).to(device)
        merged = source.steps if source.end > source.steps * size else None
        augment = self.augment.epoch(generator, count, size, device, merged)
        for step, batch in enumerate(source.epoch(epoch, start), start):
            first = step * size
            images = source.cut(batch.index, draws[first : first + len(batch.index)])
            batch.views["strong"] = source.normalise(augment(images, step))
            yield batch
