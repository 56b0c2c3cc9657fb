"""How long a run will take, from the finished runs below an output folder. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from distill.config import RunSpec, load
from distill.result import Result
from distill.run_folder import RunFolder

MMACS = {  # million multiply-accumulates of one image, of 32 x 32 pixels; timm's nets, of 224 x 224, scaled to that
    "MobileNetV2": 6.5, "ResNet50": 1298.0, "ShuffleV1": 38.7, "ShuffleV2": 44.5, "ShuffleV2_1_5": 93.8,
    "resnet8": 12.5, "resnet14": 26.7, "resnet20": 40.8, "resnet32": 69.1, "resnet44": 97.4, "resnet56": 125.8,
    "resnet110": 253.2, "resnet8x4": 177.1, "resnet32x4": 1083.0, "vgg8": 96.2, "vgg11": 209.4, "vgg13": 284.9,
    "vgg16": 398.2, "vgg19": 511.4, "wrn_16_1": 26.7, "wrn_16_2": 101.1, "wrn_16_4": 392.6, "wrn_28_2": 214.4,
    "wrn_28_4": 845.6, "wrn_28_10": 5243.4, "wrn_40_1": 83.3,
    "wrn_40_2": 327.6, "resnet18": 37.0, "resnet34": 74.8, "resnet50": 83.5, "mobilenetv1_100": 11.6,
    "MobileNetV1": 11.6, "ResNet18": 555.5, "ResNet34": 1159.4, "ResNet101": 2510.2, "PreActResNet18": 555.5,
    "resnet110_bottleneck": 247.7, "resnet8_bss": 12.2, "resnet14_bss": 26.4, "resnet20_bss": 40.6,
    "resnet26_bss": 54.7, "plain2": 3.4, "plain4": 24.9, "plain6": 39.5, "plain8": 52.9, "plain10": 72.2,
    "plain2_c10": 1.0, "plain4_c10": 6.4, "plain6_c10": 9.9, "plain8_c10": 13.5, "plain10_c10": 71.8,
    "mlp1200": 2.7, "mlp800": 1.5, "mlp300": 0.4, "mlp30": 0.03, "LeNet5": 0.4, "LeNet5_half": 0.1, "bit_resnet14": 0.6,
}  # fmt: skip
IMAGES = {  # training images of the data sets whose number is known before they are read
    "digits": 1437, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000,
    "imagenet": 1_281_167,
}  # fmt: skip
NOT_KNOWN = "no estimate"


@dataclass(frozen=True)
class Measured:
    """A finished run: what it was, the seconds of one of its epochs, and images/s of training alone (0: unknown)."""

    dataset: str
    teacher: str
    student: str
    method: str
    hash: str
    device: str
    seconds: float
    rate: float


@dataclass(frozen=True)
class Estimate:
    """The seconds of a whole run, and where they are from; None where nothing is known."""

    seconds: float | None
    source: str


def read(output: str | Path) -> list[Measured]:
    """The finished runs below `output` that were made on the device most of them were made on."""
    runs = (RunFolder(path) for path in Path(output).glob("*/*/*/s*"))
    found = [one for run in runs if run.done and (one := _measured(run.read_result()))]
    device = Counter(one.device for one in found).most_common(1)
    return [one for one in found if one.device == device[0][0]]


def _measured(result: Result) -> Measured | None:
    if not result.seconds or not result.epochs or result.hash is None:
        return None
    names = {key: str(getattr(result, key)) for key in ("dataset", "teacher", "student", "method", "hash")}
    rate, device = result.images_per_second or 0.0, result.device or "?"
    return Measured(**names, device=device, seconds=result.seconds / result.epochs, rate=rate)


class Speeds:
    """Estimates from measured runs: of the same configuration, method, pair, data set, else of any."""

    def __init__(self, runs: Iterable[Measured]) -> None:
        self.runs = list(runs)

    @property
    def device(self) -> str | None:
        """What the runs were measured on."""
        return self.runs[0].device if self.runs else None

    def estimate(self, spec: RunSpec) -> Estimate:
        """The time of a whole run, and in words what it was measured on."""
        mine, epochs = run_names(spec), spec.schedule.epochs
        for source, fits in self._levels(mine):
            if times := [run.seconds for run in self.runs if fits(run)]:
                return Estimate(epochs * median(times), source)
        return self._by_macs(mine, epochs, images(spec))

    def _levels(self, mine: dict[str, str]) -> Iterator[tuple[str, Callable[[Measured], bool]]]:
        def same(*keys: str) -> Callable[[Measured], bool]:
            return lambda run: all(getattr(run, key) == mine[key] for key in keys)

        yield "measured, other seeds", same("dataset", "hash")
        yield "measured, other settings", same("dataset", "teacher", "student", "method")
        yield "measured, other methods of the pair", same("dataset", "teacher", "student")

    def _by_macs(self, mine: dict[str, str], epochs: int, images: float | None) -> Estimate:
        work = image_work(mine["dataset"], mine["teacher"], mine["student"])
        known = [(run, image_work(run.dataset, run.teacher, run.student)) for run in self.runs if run.rate]
        for source, near in (("scaled by MACs", True), ("scaled by MACs from other data sets, rough", False)):
            times = [1 / (run.rate * macs) for run, macs in known if macs and (run.dataset == mine["dataset"]) == near]
            if work and images and times:
                return Estimate(epochs * images * work * median(times), source)
        return Estimate(None, NOT_KNOWN)


def run_names(spec: RunSpec) -> dict[str, str]:
    """dataset, teacher, student, method and hash of a run, spelled as in its result.json."""
    names = {"dataset": spec.dataset.name, "student": spec.student.name, "method": spec.method.name}
    return {**names, "teacher": str(spec.teacher), "hash": spec.hash}


def images(spec: RunSpec) -> float | None:
    """The images of an epoch, less those held out or left out; None where nobody knows before they are read."""
    count = IMAGES.get(spec.dataset.name)
    if count is None:
        return None
    return count * (1 - spec.dataset.holdout) * spec.dataset.fraction


def image_work(dataset: str, teacher: str, student: str) -> float | None:
    """Million multiply-accumulates of an image in training: a forward of the teacher, three of the student.

    teacher: as in a result, such as 3xresnet56+resnet110, or resnet110-resnet20 for a chain. None where the data set
    or one of the nets is not known here.
    """
    node, own = load("dataset", dataset), MMACS.get(student)
    total = 3 * own if own else 0.0
    for part in [] if teacher == "None" else teacher.split("+"):
        several = re.match(r"(\d+)x", part)
        name = part.removeprefix(several[0] if several else "").rpartition("-")[2]
        if name not in MMACS:
            return None
        total += (int(several[1]) if several else 1) * MMACS[name]
    return total * (int(node.size) / 32) ** 2 if node is not None and own else None
