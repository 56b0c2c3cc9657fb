"""A small world for tests: random images, small nets, methods composed as the command line composes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from distill import config
from distill.config.check import check_maps
from distill.contract.world import SMALLER, pair_of
from distill.data import Data, DataInfo, Split
from distill.engine.checkpoint import Checkpoints
from distill.engine.fit import Fit
from distill.engine.state import Options
from distill.method import Method
from distill.models import FeatureNet, build
from distill.models.reading import evaluating
from distill.runtime import autocast, seed_everything
from distill.signals import StopSignals
from tests import compositions

METHODS = config.options("method")
CLASSES, SIZE, IMAGES = 6, 16, 22
SMALLEST = ("cifar_resnet8", "cifar_resnet8")  # (teacher, student) where any pair will do
SHORTER = {  # methods of many phases, and those that make their own batches or teachers
    "ban": ("method.generations=2",),
    "continual": ("method.steps=4",),
    "dafl": ("method.steps=3",),
    "zskt": ("method.steps=2", "method.student_steps=2"),
    "eskd": ("method.teacher_epochs=1",),
    "dfq": ("method.steps=2", "method.student_steps=2"),
    "deepinversion": ("method.steps=2", "method.batches=2", "method.batch_size=16"),
    "cmi": ("method.steps=2", "method.generator_steps=2", "method.student_steps=2",
            "method.pool=64", "method.bank=64", "method.negatives=32"),
    "lwf": ("method.tasks=3",),
    "specialists": ("method.specialists=3",),
}  # fmt: skip


def composed(*overrides: str) -> DictConfig:
    """Return what the command line would compose, of two epochs of small batches, to do with as one likes."""
    return compositions.composed("schedule.epochs=2", "schedule.init_epochs=1", "schedule.batch_size=8", *overrides)


def of_method(method: str, *overrides: str) -> DictConfig:
    """Return the configuration of a short run of a method."""
    return composed(f"method={method}", *SHORTER.get(method, ()), *overrides)


def tiny_data(seed: int = 0, in_chans: int = 3, images: int = IMAGES) -> Data:
    """Return random images [22,16,16,C] of six classes; the last batch of eight holds six."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (images, SIZE, SIZE, in_chans), generator=generator, dtype=torch.uint8)
    labels = torch.arange(images) % CLASSES
    info = DataInfo(
        name="tiny", num_classes=CLASSES, num_train=images, in_chans=in_chans, size=SIZE, mean=(0.5,) * in_chans,
        std=(0.25,) * in_chans, labels=labels, class_names=[str(k) for k in range(CLASSES)],
    )  # fmt: skip
    return Data(info, Split(pixels, labels), Split(pixels[:8], labels[:8]), pad=2, flip=True)


def net(name: str, seed: int = 0, **args: Any) -> FeatureNet:
    """Return a small net for the tiny images, its weights a function of the seed."""
    return build(name, CLASSES, size=SIZE, args=args, seed=seed)


def as_convnexts_authors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of timm's ConvNeXt under the names of its authors."""
    authors = {"blocks.": "", "conv_dw": "dwconv", "mlp.fc": "pwconv", "head.norm": "norm", "head.fc": "head"}
    named = dict(state)
    for ours, theirs in authors.items():
        named = {name.replace(ours, theirs): value for name, value in named.items()}
    named = {re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", name): v for name, v in named.items()}
    return {name.replace("stem.", "downsample_layers.0."): value for name, value in named.items()}


def frozen(teacher: FeatureNet) -> FeatureNet:
    """Return the net as run() hands teachers over."""
    return teacher.requires_grad_(False).eval()


def make(method: str, student: FeatureNet, teacher: FeatureNet, data: Data, *overrides: str) -> Method:
    """Build a method from its YAML, as run() does; twins of the teacher where it takes several (n: three)."""
    cfg = of_method(method, *overrides)
    count = int(str(cfg.method.about.teachers).replace("n", "3"))
    teachers = [frozen(teacher if k == 0 else teacher.twin(seed=10 + k)) for k in range(count)]
    check_maps(method, cfg.method.about.taps, [student.name, teacher.name])
    built: Method = config.instantiate(cfg.method, student, teachers, data.info)
    return built


def by_hand(
    kind: type[Method], student: FeatureNet, teachers: Sequence[FeatureNet], info: DataInfo, **settings: Any
) -> Any:
    """Build a method of these very nets, with the values of the YAML of its file but for `settings`."""
    name = kind.__module__.rpartition(".")[2].replace("_", "-")
    node = config.plain(composed(f"method={name}"), "method")
    return config.instantiate({**node, **settings}, student, teachers, info)


class NullCallback:
    """A watcher that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def begin_epoch(self, *_: Any) -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def best(self, net: torch.nn.Module) -> None: ...
    def flush(self) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None:
        self.rows.append({key: value for key, value in row.items() if key != "images_per_second"})


def fit(method: Method, data: Data, folder: Path, *, seed: int = 1, precision: str = "fp32") -> Fit:
    """Return the loop around a method, with the tiny schedule."""
    schedule = config.ScheduleSpec.of(config.plain(composed(), "schedule"))
    device = torch.device("cpu")
    options = Options(lambda: autocast(device, precision), log_every=2, save_seconds=1e9)

    def accuracy(deployed: torch.nn.Module) -> float:
        images, labels = next(iter(data.evaluation(8)))
        with torch.no_grad(), evaluating(deployed):
            right = (deployed(images).logits.argmax(1) == labels).double().mean().item()
        return 100 * right

    source = data.source(batch_size=8, seed=seed)
    return Fit(method, source, accuracy, schedule, options, Checkpoints(folder), NullCallback(), StopSignals())


def seeded_method(
    name: str, data: Data, pair: tuple[str, str] = ("cifar_resnet14", "cifar_resnet8"), *overrides: str
) -> Method:
    """Return a method on a fresh pair, everything a function of nothing but the arguments; those that read tokens are
    made of two small transformers.
    """
    node = config.load_node("method", name)
    pair = (node is not None and pair_of(node.about)) or pair
    teacher, student = (net(each, seed, **SMALLER.get(each, {})) for each, seed in zip(pair, (2, 1), strict=True))
    seed_everything(7)
    return make(name, student, teacher, data, *overrides)
