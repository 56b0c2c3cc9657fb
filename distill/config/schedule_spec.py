"""A schedule as a run sees it: the keys of conf/schedule/<name>.yaml, typed and read-only.

To add a key: a field here, in OptimizerSpec where an update's own optimiser may have it too; its rule in
`config.rules.SCHEDULE`; `key: null` in conf/config.yaml, for the schedules that do not name it. A null is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from distill.config.read_only import frozen

_MADE: dict[str, Callable[[Any], Any]] = {  # of a value as YAML has it, by the field's type
    "int": int,
    "float": float,
    "bool": bool,
    "bool | str": lambda value: value,
    "str": str,
    "tuple[float, ...]": lambda values: tuple(map(float, values)),
    "Mapping[str, Any]": frozen,
}


def lr_share(scales: Mapping[str, Any] | None, model: Any) -> float:
    """The share of its rate at which a schedule trains a net: schedule.lr_scales, 1 for a net that is not there."""
    return float((scales or {}).get(str(model), 1.0))


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """What one optimiser is told: its rate over the epochs, what is done beside its steps, its name and options."""

    lr: float
    decay: str = "step"  # step, exponential, cosine, linear or constant, see engine.optim.learning_rate
    milestones: tuple[float, ...] = ()  # epochs after which `step` multiplies the rate by gamma
    gamma: float = 0.1
    lr_min: float = 0.0  # where cosine and linear end
    warmup_epochs: float = 0.0
    warmup_lr: float | None = None  # where the warm-up begins; None: at a step's share, or an epoch's of by_epoch
    by_epoch: bool | str = False  # the rate changes between epochs alone, and falls from the first on; late: one after
    clip_grad: float | None = None  # greatest norm of an update's whole gradient
    clip_mode: str = "norm"  # what clip_grad limits: norm, value or agc (each unit's norm, relative to its weight's)
    no_decay: bool | str = False  # norms, biases and what a net of timm names do not decay; norms: the first two
    layer_decay: float | None = None  # share of the rate that each layer has of the one above it
    momentum_start: float | None = None  # from which the momentum rises to the optimiser's own
    momentum_epochs: float | None = None
    damped: bool = False  # gradients count 1 - momentum
    restart: bool = False  # the moments are forgotten at each milestone
    max_norm: float | None = None  # greatest length of the weights into a unit
    optimizer: Mapping[str, Any] = field(default_factory=dict)  # `name`, and options of the optimiser of that name

    def __post_init__(self) -> None:
        """Raise ValueError for a rate that would rise to its end: of a net or an update with a lower one of its own."""
        if self.decay in ("cosine", "linear") and self.lr_min > self.lr:
            raise ValueError(f"schedule.lr_min={self.lr_min:g} is where rates end, and one is {self.lr:g}: give less")

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Self:
        """The schedule of a plain node. Raises ValueError for a key that there is not, or one without its value."""
        known = {each.name: each for each in fields(cls)}
        if unknown := [key for key in node if key not in known]:
            raise ValueError(f"schedule has no key '{unknown[0]}': it has {', '.join(known)}.")
        given = {key: _MADE[str(known[key].type).removesuffix(" | None")](value)
                 for key, value in node.items() if value is not None}  # fmt: skip
        needed = [key for key, each in known.items() if each.default is each.default_factory is MISSING]
        if missing := [key for key in needed if key not in given]:
            raise ValueError(f"schedule.{missing[0]} has no value: give one, schedule.{missing[0]}=...")
        return cls(**given)

    def merged(self, overrides: Mapping[str, Any]) -> Self:
        """The schedule of a phase or an update, whose `overrides` of keys are put in; `name` and keys that there are
        not are the optimiser's.

        An optimiser of another name starts from its own defaults; one that lacks an option raises ValueError when made.
        """
        keys = {each.name for each in fields(self)} - {"name", "optimizer"}
        changes = {key: value for key, value in overrides.items() if key in keys}
        own = {key: value for key, value in overrides.items() if key not in keys}
        same = own.get("name", self.optimizer.get("name")) == self.optimizer.get("name")
        return self.of({**vars(self), **changes, "optimizer": {**(self.optimizer if same else {}), **own}})


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(OptimizerSpec):
    """A schedule, of which each optimiser is told what OptimizerSpec has; a phase or an update may change some."""

    name: str
    epochs: int
    batch_size: int
    lr_scales: Mapping[str, Any] = field(default_factory=dict)  # share of the rate that some nets train at
    inits: Mapping[str, Any] = field(default_factory=dict)  # rules by which some nets begin, see models.inits
    init_epochs: int = 0  # of the first stage of methods that have two
    mixup: float | None = None  # alpha of MixUp; None: the rule's, or none
    cutmix: float = 0.0  # alpha of CutMix; 0: none
    repeats: int = 1  # times an image is shown in an epoch
    label_smoothing: float = 0.0
    last_batch: str = "auto"  # what becomes of the images that an epoch's last batch lacks, see data.arrays
    rule: str | None = None  # by which engine.hyperrule makes a schedule for the data
    resize: int | None = None  # of the rule: pixels that images are brought to, and of their crop; None: its own
    crop: int | None = None
    loss: str = "ce"  # what a cross-entropy is: over classes, or bce for each class by itself
    bce_threshold: float | None = None  # mixed targets above it are 1, others 0
    accumulate: int = 1  # parts of a batch whose gradients are added up
    ema: float | None = None  # decay of the average of the student's weights
    ema_warmup: bool = False  # it rises to that
    ema_export: bool = True  # the average is evaluated and exported; False: the student itself
    drop_path: float = 0.0  # greatest probability that a block of the student is passed by
    drawn: int = 0  # by the rule: batches of an epoch whose images are drawn with replacement; 0: every image once
    zero_head: bool = False  # the student's classifier starts at zero

    @property
    def of_batches(self) -> dict[str, Any]:
        """What a source of batches takes of it beside their size, where it asks for anything."""
        keys = ("mixup", "cutmix", "repeats", "drawn", "last_batch")
        return {key: value for key in keys if (value := getattr(self, key))}

    def rate_of(self, model: str, lr_scale: float = 1.0) -> float:
        """The rate at which a net trains that has a share `lr_scale` of its own."""
        return self.lr * lr_share(self.lr_scales, model) * lr_scale
