"""What a shipped net has to say of itself: what it takes, what its answers stand for, what it was worth. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from distill.config import DataSpec, thawed
from distill.config.rules import RULES, check_rule
from distill.content.data_sets import KNOWN_SETS
from distill.finished_run import FinishedRun

HERE = ("root", "workers")  # of a data set: where it lies, and how it is read there
KEY = "distill"  # of config.json: what timm does not read
SQUASH, CENTER = "squash", "center"  # timm's names of how an image is brought to its size
LAST = "last epoch"  # whose weights they are, if not the best one's
CROP = {SQUASH: 1.0, CENTER: 224 / 256}  # share of the resized image's side that is shown


@dataclass(frozen=True)
class Facts:
    """A shipped net in words and numbers.

    model, args: its name in timm's registry, ours included, and its constructor's keywords; None where it is none of
    these, and has an ONNX file alone.
    crop: SQUASH for images that are taken whole, CENTER where the middle is cut out of them. dataset: the node of
    the data set that it was trained on, less where that lies. accuracy: in percent, as result.json has it.
    bits: such as w4a8 for a quantised net. border: pixels of zeros around whole images, which `size` holds too.
    """

    model: str | None
    student: str
    classes: tuple[str, ...]
    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: str
    dataset: Mapping[str, Any]
    accuracy: float | None
    evaluated_on: str
    precision: str
    weights: str
    bits: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    border: int = 0

    @property
    def side(self) -> int:
        """Pixels that an image is brought to before its border is put around it."""
        return self.size - 2 * self.border

    @property
    def crop_pct(self) -> float:
        """timm's share of an image's side that is shown, above 1 where a border is: size / crop_pct is rounded down."""
        return self.size / self.side * (1 - 1e-9) if self.border else CROP[self.crop]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: (C, S, S)."""
        return self.channels, self.size, self.size

    @property
    def view(self) -> str | None:
        """What the net sees in place of the images as they are (dataset.views.student)."""
        return (self.dataset.get("views") or {}).get("student")

    def to_json(self) -> dict[str, Any]:
        """For config.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any, where: Any) -> Facts:
        """Read what to_json wrote. Raises ValueError for anything else."""
        try:
            read: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
            made = cls(**read)
            fits = len(made.mean) == len(made.std) == made.channels and made.crop in CROP and made.side > 0
            fits = fits and made.border >= 0
            check_data_node(made.dataset)
        except (TypeError, AttributeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{where} is no folder that distill export wrote, or of another version: export it again")
        return made


def check_data_node(node: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that a data set's key cannot have; what stands for null is one that it can."""
    usual = {each.name: each.default for each in fields(DataSpec)}
    for key, value in node.items():
        if (rule := RULES.get(f"dataset.{key}")) and value is not None and value != usual.get(key):
            check_rule(f"dataset.{key}", value, rule)


def facts_of(
    run: FinishedRun, model: str | None, args: Mapping[str, Any], classes: list[str], bits: str | None, best: bool
) -> Facts:
    """What is known of a finished run's student. Raises ValueError for a run that did not record its input."""
    document = run.result.document
    takes = document.get("input")
    if not isinstance(takes, dict) or not {"size", "channels", "mean", "std"} <= takes.keys():
        raise ValueError(f"{run.folder} does not say what its student takes: it is of an earlier version, run it again")
    node = {f.name: thawed(getattr(run.spec.dataset, f.name)) for f in fields(DataSpec) if f.name not in HERE}
    if run.spec.schedule.rule:  # it has set the resolution
        node |= {"size": takes["size"], "resize": takes["size"]}
    whole = node.get("kind") != "folder" or node.get("resize") not in (None, False, True)
    accuracy = run.result.accuracy
    return Facts(
        model=model,
        student=run.result.student,
        classes=tuple(classes),
        size=int(takes["size"]),
        channels=int(takes["channels"]),
        mean=tuple(takes["mean"]),
        std=tuple(takes["std"]),
        crop=SQUASH if whole else CENTER,
        dataset=node,
        accuracy=accuracy.best if best else accuracy.last,
        evaluated_on=run.result.evaluated_on,
        precision=run.result.precision or "fp32",
        weights="best epoch" if best else LAST,
        bits=bits,
        args=args,
        border=int(takes.get("border") or _known_border(node)),
    )


def _known_border(node: Mapping[str, Any]) -> int:
    """The border of a data set that is known by name: runs of earlier versions did not record it."""
    known = KNOWN_SETS.get(str(node.get("kind")))
    return 0 if known is None or node.get("resize") else (int(node["size"]) - known.side) // 2
