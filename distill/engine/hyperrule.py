"""BiT's HyperRule: a whole fine-tuning recipe from the size of the data set and of its images.

Big Transfer (Kolesnikov et al., ECCV 2020, arXiv:1912.11370, section 3.3), with the numbers of the authors' code
(google-research/big_transfer, bit_hyperrule.py and bit_pytorch/train.py). Of it the schedule says rate, momentum, batch
and a classifier that starts at zero; the rule says steps, MixUp and resolution. Images are flipped where the data set's
are: the paper leaves flips out where they change what an image shows, as with digits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from distill.config import DataSpec, ScheduleSpec, load_node
from distill.data import Adapt

SMALL, MEDIUM = 20_000, 500_000  # training images below which a data set is small, or medium-sized
STEPS = {  # end of the warm-up, three steps at which the rate falls to a tenth, end
    "small": (100, 200, 300, 400, 500),
    "medium": (500, 3_000, 6_000, 9_000, 10_000),
    "large": (500, 6_000, 12_000, 18_000, 20_000),
}
LOW, HIGH = (160, 128), (512, 480)  # pixels an image is brought to, and of its crop, below 96 x 96 and from there on
DRAWN_STEPS = 100  # what is called an epoch where batches are drawn with replacement: the authors' has one step
RESOLUTION = ("size", "resize", "pad")  # keys of dataset that the rule sets


def steps(images: int) -> tuple[int, ...]:
    """End of the warm-up, three falls and the end, for so many training images."""
    return STEPS["small" if images < SMALL else "medium" if images < MEDIUM else "large"]


def mixup(images: int) -> float:
    """Alpha of MixUp for so many training images; 0 is none."""
    return 0.0 if images < SMALL else 0.1


def resolution(height: int, width: int) -> tuple[int, int]:
    """The side that images stored with height x width pixels are brought to, and that of the random crop of it."""
    return LOW if height * width < 96 * 96 else HIGH


def _is_followed(schedule: ScheduleSpec) -> bool:
    """Whether a schedule is to follow the rule. Raises ValueError for one that is not known."""
    rule = schedule.rule
    if rule not in (None, "hyperrule"):
        raise ValueError(
            f"schedule.rule is {rule!r}: the only rule is hyperrule (BiT's), or null for the schedule as it stands."
        )
    return rule is not None


def adapt(schedule: ScheduleSpec, dataset: DataSpec) -> Adapt | None:
    """What the rule makes of dataset's keys by the images' own size; None for a schedule without it.

    Raises ValueError where the command sets one of these keys: it would be overruled without a word.
    """
    if not _is_followed(schedule):
        return None
    usual: Any = load_node("dataset", dataset.kind) or {}
    for key in RESOLUTION:
        if (value := getattr(dataset, key)) != (usual.get(key, value) or 0):
            raise ValueError(
                f"dataset.{key}={value} beside schedule={schedule.name}, whose rule takes the resolution from "
                "the images as they are stored: give schedule.resize and schedule.crop in its place."
            )

    def keys(height: int, width: int) -> dict[str, Any]:
        resize, crop = resolution(height, width)
        return {"size": schedule.crop or crop, "resize": schedule.resize or resize, "pad": 0}

    return keys


def by_rule(schedule: ScheduleSpec, images: int) -> ScheduleSpec:
    """A schedule with the rule as one in epochs of so many training images; any other as it is.

    Warm-up and milestones are fractions of epochs, exact to the step; the last epoch is run to its end, at a
    rate that has fallen to a tenth four times. `drawn`: where there are fewer images than a batch has, the steps of an
    epoch, whose batches are drawn with replacement; else 0. Raises ValueError for a rule that is not known.
    """
    if not _is_followed(schedule):
        return schedule
    batch = schedule.batch_size
    drawn = DRAWN_STEPS if images < batch else 0
    epoch = drawn or -(-images // batch)
    first, *falls = steps(images)
    return replace(
        schedule,
        epochs=math.ceil(falls[-1] / epoch),
        warmup_epochs=first / epoch,
        milestones=tuple(step / epoch for step in falls),
        mixup=mixup(images) if schedule.mixup is None else schedule.mixup,
        drawn=drawn,
    )
