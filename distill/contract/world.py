"""A small world to ask a method in: random images, small nets, the method built as a run builds it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import distill.api as api
from distill.batch import Batch
from distill.config import RunSpec, class_of, instantiate, load_node, resolve
from distill.config.groups import interpolated
from distill.data import Data, DataInfo, Split
from distill.engine.checkpoint import Checkpoints
from distill.engine.fit import Fit
from distill.engine.registered import check_registered
from distill.engine.state import Options
from distill.engine.update import train_mode
from distill.method import Method, Phase
from distill.models import FeatureNet
from distill.models import build as build_net
from distill.runtime import autocast, seed_everything
from distill.signals import StopSignals

CLASSES, _SIZE, IMAGES, BATCH = 6, 16, 22, 8  # the last batch of eight holds six
PAIR = ("cifar_resnet14", "cifar_resnet8")  # teacher, student
TRANSFORMERS = ("vit_tiny_patch16_224",) * 2  # of methods that read tokens
SMALLER: dict[str, dict[str, Any]] = {
    name: {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    for name in ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")
}
_CPU = torch.device("cpu")
_SHORT = (f"schedule.batch_size={BATCH}", "schedule.epochs=2", "device=cpu", "precision=fp32")


@dataclass(frozen=True)
class World:
    """A method's configuration, and data to ask it with."""

    spec: RunSpec
    data: Data
    classes: int = CLASSES  # 0: of images without labels, and nets without classifiers

    @property
    def name(self) -> str:
        return self.spec.method.name

    @property
    def kind(self) -> Any:
        """The method's class."""
        return class_of(self.spec.method.node)

    def method(self, pair: tuple[str, str] | None = None) -> Method:
        """The method on a fresh pair of nets: a function of nothing but the arguments. Raises what its class does."""
        seed_everything(7)
        pair = pair or pair_of(self.spec.method.node["about"]) or PAIR
        student, first = _net(pair[1], 1, self.classes), _net(pair[0], 2, self.classes)
        count = len(self.spec.teachers)
        teachers = [first if k == 0 else first.twin(seed=10 + k) for k in range(count)]
        for teacher in teachers:
            teacher.requires_grad_(False).eval()
        made: Method = instantiate(self.spec.method.node, student, teachers, self.data.info)
        check_registered(made)
        return made

    def without_classes(self) -> World:
        """The same without labels and classifiers, ce and kd being 0."""
        none = {key: 0.0 for key in ("ce", "kd") if self.spec.method.node.get(key) is not None}
        own = replace(self.spec.method, node=MappingProxyType({**self.spec.method.node, **none}))
        info = replace(self.data.info, num_classes=0, labels=None, class_names=[])
        data = replace(self.data, info=info, train=replace(self.data.train, labels=None))
        return World(replace(self.spec, method=own), data, 0)

    def begun(self, method: Method, phase: Phase) -> list[Batch]:
        """Begin a phase and return the batches of an epoch."""
        if phase.begin:
            phase.begin()
        method.epoch, method.epochs = 1, 2
        method.before_epoch()
        train_mode(method, phase)
        return list(self.batches(phase))

    def batches(self, phase: Phase) -> Iterator[Batch]:
        """The batches of an epoch of a phase that has begun."""
        source = self.data.source(batch_size=BATCH, seed=3)
        return iter((phase.source(source) if phase.source else source).epoch(1))

    def on_meta(self) -> World:
        """The same with images that hold no values."""
        images, labels = self.data.train.images, self.data.train.labels
        train = Split(images.to("meta"), None if labels is None else labels.to("meta"))
        return replace(self, data=replace(self.data, train=train))

    def fit(self, folder: Path) -> Fit:
        """The loop around a fresh method, with checkpoints in a folder."""
        options = Options(lambda: autocast(_CPU, "fp32"), log_every=2, save_seconds=1e9)
        source, saves = self.data.source(batch_size=BATCH, seed=1), Checkpoints(folder)
        rest = options, saves, NullCallback(), StopSignals()
        return Fit(self.method(), source, lambda net: 0.0, self.spec.schedule, *rest)


def pair_of(about: Mapping[str, Any]) -> tuple[str, str] | None:
    """Teacher and student that a method's YAML wants to be tried on: `tried_on`, or two transformers for tokens."""
    if named := about.get("tried_on"):
        teacher, student = named
        return str(teacher), str(student)
    return TRANSFORMERS if "tokens" in about["taps"] else None


class NullCallback:
    """A watcher that shows nothing."""

    def begin_epoch(self, *_: Any) -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def best(self, net: FeatureNet) -> None: ...
    def flush(self) -> None: ...


def world_of(name: str, settings: Sequence[str], config_dir: str | None) -> World:
    """The world of a method of conf/method, with settings such as plugins=[my_method]. Raises ValueError."""
    node: Any = load_node("method", name) or {}
    wanted = str((node.get("about") or {}).get("teachers", 1)).replace("n", "3")
    taught = () if wanted == "0" else ("teacher=resnet14", "teacher.weights=none")
    words = [f"method={name}", *_SHORT, "student=resnet8", *taught, *settings]
    if wanted.isdigit() and int(wanted) > 1:
        words.append(f"teacher.seeds=[{','.join(map(str, range(int(wanted))))}]")
    module = str(node.get("_target_")).rpartition(".")[0]
    if not module.startswith("distill.") and not any(word.startswith("plugins=") for word in settings):
        words.append(f"plugins=[{module}]")
    cfg = api.composed(words, config_dir)
    if interpolated(cfg, "schedule.init_epochs"):
        cfg = api.composed([*words, "schedule.init_epochs=1"], config_dir)
    return World(resolve(cfg), _data())


def _net(name: str, seed: int, classes: int) -> FeatureNet:
    return build_net(name, classes, size=_SIZE, args=SMALLER.get(name, {}), seed=seed)


def _data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, _SIZE, _SIZE, 3), generator=generator, dtype=torch.uint8)
    labels, half = torch.arange(IMAGES) % CLASSES, (0.5, 0.5, 0.5)
    names = [str(k) for k in range(CLASSES)]
    info = DataInfo("contract", CLASSES, IMAGES, 3, _SIZE, half, half, labels, names)
    return Data(info, Split(images, labels), Split(images[:BATCH], labels[:BATCH]), pad=2, flip=True)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="distill-") as made:
        yield Path(made)
