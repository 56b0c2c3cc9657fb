"""BiT's HyperRule: a whole fine-tuning schedule from the size of the data set and of its images.

Big Transfer (Kolesnikov et al., ECCV 2020, arXiv:1912.11370, section 3.3), with the numbers of the authors'
code.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

log = logging.getLogger(__name__)
SMALL, MEDIUM = 20_000, 500_000  # training images below which a data set is small, or medium-sized
STEPS = {  # end of the warm-up, three steps at which the rate falls to a tenth, end
    "small": (100, 200, 300, 400, 500),
    "medium": (500, 3_000, 6_000, 9_000, 10_000),
    "large": (500, 6_000, 12_000, 18_000, 20_000),
}


class Rule(NamedTuple):
    """What the HyperRule says."""

    steps: tuple[int, ...]
    resize: int  # side that images are brought to
    crop: int  # side of the random crop of it
    mixup: float  # alpha, 0 for none


def hyperrule(images: int, height: int, width: int) -> Rule:
    """The rule for so many training images of height x width pixels."""
    kind = "small" if images < SMALL else "medium" if images < MEDIUM else "large"
    resize, crop = (160, 128) if height * width < 96 * 96 else (512, 480)
    return Rule(STEPS[kind], resize, crop, 0.0 if kind == "small" else 0.1)


def resolve(schedule: dict[str, Any], images: int, size: int) -> dict[str, Any]:
    """A schedule with `rule: bit` as one in epochs of this data; any other as it is.

    Warm-up and milestones are fractions of epochs, exact to the step; the last epoch is run to its end, at a
    rate that has fallen to a tenth four times. Raises ValueError for a rule that is not known.
    """
    rule = schedule.get("rule")
    if rule is None:
        return schedule
    if rule != "bit":
        raise ValueError(
            f"schedule.rule is {rule!r}: the only rule is bit, or null for the schedule as it stands."
        )
    found = hyperrule(images, size, size)
    if size != found.crop:
        log.info(
            "the HyperRule asks for images of %d pixels, these have %d: see dataset.size", found.crop, size
        )
    epoch = -(-images // int(schedule["batch_size"]))
    first, *falls = found.steps
    return {
        **schedule,
        "epochs": math.ceil(found.steps[-1] / epoch),
        "warmup_epochs": first / epoch,
        "milestones": [step / epoch for step in falls],
        "mixup": found.mixup if schedule.get("mixup") is None else schedule["mixup"],
    }
