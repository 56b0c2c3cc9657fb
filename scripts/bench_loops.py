"""What bench.py times: bare loops, and this program's loop on methods; images are random bytes."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch.nn import functional as F

from distill import config, runtime
from distill.data import Data, DataInfo, Split
from distill.engine import cuda_graphs, trial
from distill.engine.checkpoint import Checkpoints
from distill.engine.compiling import compile_forward, fold_batchnorm, half_weights, trains
from distill.engine.fit import Fit
from distill.engine.state import Options
from distill.models import FeatureNet, build
from distill.record.reporter import NullReporter
from distill.run import make_schedule
from distill.signals import StopSignals
from distill.sweep.packed import shared
from distill.teachers.cache import TeacherCache
from distill.teachers.forward import FrozenTeachers
from distill.teachers.row_file import RowFile

Loop = Callable[[int], None]  # runs so many steps
CLASSES = 100


def random_data(device: torch.device, images: int = 50_000) -> Data:
    """CIFAR-100's shapes, filled with random bytes."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
        return Split(pixels.to(device), (torch.arange(count) % CLASSES).to(device))

    labels, names = torch.arange(images) % CLASSES, [str(k) for k in range(CLASSES)]
    info = DataInfo("random", CLASSES, images, 3, 32, (0.5,) * 3, (0.25,) * 3, labels, names)
    return Data(info, split(images), split(512))


def net(name: str, device: torch.device, seed: int) -> FeatureNet:
    return build(f"cifar_{name}", CLASSES, seed=seed).to(device).to(memory_format=torch.channels_last)


def bare(args: argparse.Namespace, device: torch.device, *, fastest: bool, taught: bool = True) -> Loop:
    """A hand-written KD loop on one batch that stays in memory: eager in fp32, or with all that makes it fast."""
    teacher, student = net(args.teacher, device, 0).eval().requires_grad_(False), net(args.student, device, 1).train()
    images = torch.randn(args.batch, 3, 32, 32, device=device)
    labels = torch.randint(CLASSES, (args.batch,), device=device)
    precision = trial.pick_precision(args.precision, device) if fastest else "fp32"
    if fastest:
        images = images.to(memory_format=torch.channels_last)
        teacher = fold_batchnorm(teacher)
        if precision != "fp32":
            half_weights(teacher, runtime.DTYPES[precision])
        compile_those(args, device, [teacher, student])
    else:
        teacher, student = (each.to(memory_format=torch.contiguous_format) for each in (teacher, student))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=fastest)

    def run(steps: int) -> None:
        for _ in range(steps):
            with runtime.autocast(device, precision):
                logits = student(images).logits
                if taught:
                    with torch.no_grad():
                        target = teacher(images).logits
            loss = F.cross_entropy(logits, labels)
            if taught:
                kl = F.kl_div(
                    F.log_softmax(logits / 4, 1), F.log_softmax(target / 4, 1), reduction="batchmean", log_target=True
                )
                loss = 0.1 * loss + 0.9 * 16 * kl
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def compile_those(args: argparse.Namespace, device: torch.device, nets: Sequence[FeatureNet]) -> None:
    """Compile nets as a run does: all for --compile true, those that gain by it for auto."""
    for each in nets if args.compiling else ():
        if args.compile == "true" or device.type != "cpu" or not trains(each):
            compile_forward(each, args.batch)


def own(args: argparse.Namespace, device: torch.device, data: Data, method: str, like: Fit | None = None) -> Fit:
    """This program's loop on a method, as run.Experiment puts it together; `like` shares batches and teacher."""
    names = [f"method={method}", "dataset=cifar100", f"teacher={args.teacher}", f"student={args.student}"]
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        spec = config.resolve(compose("config", [*names, f"schedule.batch_size={args.batch}"]))
    precision = trial.pick_precision(args.precision, device)
    teachers = [net(args.teacher, device, 0).eval().requires_grad_(False)] if spec.teachers else []
    if like:
        teachers = list(like.method.teachers)[: len(teachers)]
    student = net(args.student, device, 1)
    made = config.instantiate(spec.method.node, student, teachers, data.info)
    made = made.to(device).to(memory_format=torch.channels_last)
    compiled = [each for each in made.modules() if isinstance(each, FeatureNet)]
    if like:
        made.teacher_forward, source = like.method.teacher_forward, like.source
    else:
        made.teacher_forward = FrozenTeachers(teachers, runtime.DTYPES[precision])
        source = data.source(args.batch, seed=1)
        compiled += made.teacher_forward.copies.values()
    compile_those(args, device, compiled)
    eager = cuda_graphs.without_graphs("auto", device, precision, 1, data.info.size)
    options = Options(
        partial(runtime.autocast, device, precision),
        precision == "fp16",
        save_seconds=1e9,
        evaluate_every=10**6,
        graph=None if eager else cuda_graphs.CudaGraph,
    )
    checkpoints = Checkpoints(Path(tempfile.mkdtemp(prefix="distill-bench-")))
    settings = make_schedule(spec, data.info.num_train)
    fit = Fit(made, source, lambda _: 0.0, settings, options, checkpoints, NullReporter(), StopSignals())
    fit.buffers = like.buffers if like else fit.buffers
    return fit


def sharing(fit: Fit) -> Fit:
    """Make a loop one whose batches and teacher others can share."""
    method = fit.method
    forward, teachers = method.teacher_forward, method.teachers
    method.teacher_forward, fit.source = shared(forward, fit.source, teachers, fit.options, fit.buffers)
    return fit


def cached(fit: Fit, data: Data, steps: int, half: bool) -> Fit:
    """Put a cache before the loop's teacher that knows all that the loop's first steps ask; its values are random."""
    (teacher,), views = fit.method.teachers, data.view_count
    assert views
    folder = Path(tempfile.mkdtemp(prefix="distill-bench-"))
    file = RowFile(folder / "random.logits", len(data.train) * views, teacher.num_classes)
    for step, batch in enumerate(islice(fit.source.epoch(1), steps)):
        keys = (batch.index * views + batch.crop).cpu().numpy()
        file.write(keys, np.random.default_rng(step).normal(size=(len(keys), file.width)).astype(np.float16))
    fit.method.teacher_forward = TeacherCache(fit.method.teacher_forward, [teacher], [file], views=views, half=half)
    return fit


def stepping(fits: list[Fit]) -> Loop:
    """Take steps of each loop in turn, as packed runs do."""
    running: list[Iterator[None]] = [fit.steps() for fit in fits]

    def run(steps: int) -> None:
        for _ in range(steps):
            for one in running:
                next(one)
            for fit in fits:
                fit.join()

    return run
