"""Images/s of this program's loop beside bare loops, all in one process and in turn: `python scripts/bench.py`.

Each contender runs a few steps in each round, one after the other, so that a machine whose speed drifts slows all of
them; ratios are medians over rounds. Images are random bytes: only time is measured. Results go to a JSON file and a
table, with hardware and versions.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torch.nn import functional as F

from distill import config, runtime
from distill.checkpoint import Checkpoints
from distill.cost import step_share
from distill.data import Data, DataInfo, Split
from distill.data.arrays import SharedSource
from distill.files import write_json
from distill.fit import Fit
from distill.fit_state import Options
from distill.models import FeatureNet, build
from distill.progress import final_table
from distill.run import make_schedule
from distill.signals import StopSignals
from distill.speed import compile_forward, fold_batchnorm, half_weights, why_compile
from distill.teaching import Prepared, Remembered

METHODS = ("none", "kd", "at", "sp", "rkd", "crd", "reviewkd")
Contender = Callable[[int], None]  # runs so many steps


class Nobody:
    """A watcher that shows nothing."""

    def begin_epoch(self, *_: Any) -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def best(self, net: nn.Module) -> None: ...


def random_data(device: torch.device, images: int = 50_000, classes: int = 100) -> Data:
    """CIFAR-100's shapes, filled with random bytes."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
        return Split(pixels.to(device), (torch.arange(count) % classes).to(device))

    info = DataInfo(
        "random",
        classes,
        images,
        3,
        32,
        (0.5,) * 3,
        (0.25,) * 3,
        torch.arange(images) % classes,
        [str(k) for k in range(classes)],
    )
    return Data(info, split(images), split(512))


def net(name: str, device: torch.device, seed: int) -> FeatureNet:
    return build(f"cifar_{name}", 100, seed=seed).to(device).to(memory_format=torch.channels_last)


def bare(args: argparse.Namespace, device: torch.device, *, fastest: bool, taught: bool = True) -> Contender:
    """A hand-written KD loop on one batch that stays in memory: eager in fp32, or with all that makes it fast."""
    teacher, student = net(args.teacher, device, 0).eval().requires_grad_(False), net(args.student, device, 1).train()
    images = torch.randn(args.batch, 3, 32, 32, device=device)
    labels = torch.randint(100, (args.batch,), device=device)
    precision = runtime.pick_precision(args.precision, device) if fastest else "fp32"
    if fastest:
        images = images.to(memory_format=torch.channels_last)
        teacher = fold_batchnorm(teacher)
        if precision != "fp32":
            half_weights(teacher, runtime.DTYPES[precision])
        for each in (teacher, student) if args.compiling else ():
            compile_forward(each, args.batch)
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


def own(args: argparse.Namespace, device: torch.device, data: Data, method: str, like: Fit | None = None) -> Fit:
    """This program's loop on a method, as run.Experiment puts it together; `like` shares batches and teacher."""
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        cfg = compose(
            "config",
            [
                f"method={method}",
                "dataset=cifar100",
                f"teacher={args.teacher}",
                f"student={args.student}",
                f"schedule.batch_size={args.batch}",
            ],
        )
    precision = runtime.pick_precision(args.precision, device)
    autocast = partial(runtime.autocast, device, precision)
    teachers = [net(args.teacher, device, 0).eval().requires_grad_(False)] if config.has_teacher(cfg) else []
    if like:
        teachers = list(like.method.teachers)[: len(teachers)]
    made = config.build(cfg.method, student=net(args.student, device, 1), teachers=teachers, data=data.info)
    made = made.to(device).to(memory_format=torch.channels_last)
    compiled = [each for each in made.modules() if isinstance(each, FeatureNet)]
    if like:
        made.consult, source = like.method.consult, like.source
    else:
        prepared = Prepared(teachers, runtime.DTYPES[precision])
        made.consult, source = Remembered(prepared), data.source(batch_size=args.batch, seed=1)
        source = SharedSource(**source.settings)
        compiled += prepared.copies.values()
    for each in compiled if args.compiling else ():
        compile_forward(each, args.batch)
    folder = Path(tempfile.mkdtemp(prefix="distill-bench-"))
    options = Options(autocast, precision == "fp16", log_every=50, save_seconds=1e9, evaluate_every=10**6)
    return Fit(made, source, lambda _: 0.0, make_schedule(cfg), options, Checkpoints(folder), Nobody(), StopSignals())


def stepping(fits: list[Fit]) -> Contender:
    """Take steps of each loop in turn, as packed runs do."""
    running: list[Iterator[None]] = [fit.steps() for fit in fits]

    def run(steps: int) -> None:
        for _ in range(steps):
            for one in running:
                next(one)

    return run


def measure(contenders: dict[str, Contender], args: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    """Seconds a step of each contender in each round, after a warm-up that compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(args.rounds + 1):
        for name, run in contenders.items():
            steps = args.steps if number else 4
            start = time.perf_counter()
            run(steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


def ratio(over: list[float], under: list[float]) -> float:
    """How many times as fast `under` is as `over`: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all contenders of a pair; returns what goes into the JSON file."""
    device = runtime.pick_device(args.device)
    data = random_data(device)
    fits = {name: own(args, device, data, name) for name in args.methods}
    contenders = {
        "bare eager fp32": bare(args, device, fastest=False),
        "bare fastest": bare(args, device, fastest=True),
        "bare fastest, no teacher": bare(args, device, fastest=True, taught=False),
    }
    contenders |= {f"fit {name}": stepping([fit]) for name, fit in fits.items()}
    if args.packed:
        lead = own(args, device, data, "kd")
        rest = [own(args, device, data, name, like=lead) for name in args.methods if name != "kd"]
        contenders["packed"] = stepping([lead, *rest])
    seconds = measure(contenders, args, device)
    eager, fastest = seconds["bare eager fp32"], seconds["bare fastest"]
    rows = {
        name: {
            "ms": 1e3 * statistics.median(s),
            "images_per_second": args.batch / statistics.median(s),
            "to_eager": ratio(eager, s),
            "to_fastest": ratio(fastest, s),
        }
        for name, s in seconds.items()
        if name != "packed"
    }
    found: dict[str, Any] = {"pair": f"{args.teacher}-{args.student}", "rows": rows, **runtime.describe(device)}
    if args.packed:
        alone = [sum(each) for each in zip(*(seconds[f"fit {name}"] for name in args.methods), strict=True)]
        found["packed"] = ratio(alone, seconds["packed"])
    found["method_share_of_step"] = {name: step_share(fit) for name, fit in fits.items()}
    found["precision"], found["compiled"] = runtime.pick_precision(args.precision, device), args.compiling
    return found


def main() -> None:
    """Parse the command line, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default="resnet56,resnet20", help="teacher,student")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", default="auto", help="auto, true or false")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="steps of each contender in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--packed", action="store_true", help="also all methods side by side against one after the other"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    args = parser.parse_args()
    args.teacher, args.student = args.pair.split(",")
    args.methods = args.methods.split(",")
    runtime.keep_pages()
    config.register()
    args.compiling, why = why_compile(args.compile, 10**6, runtime.pick_device(args.device))
    print(f"compiled: {args.compiling} ({why})", flush=True)
    found = bench(args)
    path = args.out / f"{found['pair']}-{found['device'].split(':')[0]}.json"
    write_json(path, found)
    share = found["method_share_of_step"]
    rows = [
        (
            name,
            f"{r['ms']:.1f}",
            f"{r['images_per_second']:.0f}",
            f"{r['to_eager']:.2f}",
            f"{r['to_fastest']:.2f}",
            "" if share.get(name[4:]) is None else f"{100 * share[name[4:]]:.0f} %",
        )
        for name, r in found["rows"].items()
    ]
    heads = ("loop", "ms a step", "images/s", "x eager fp32", "x fastest bare", "method's share")
    final_table(rows, heads, title=f"{found['pair']}, batch {args.batch}, {found['device']}, {found['precision']}")
    if "packed" in found:
        print(f"{len(args.methods)} methods packed: {found['packed']:.2f} x one after the other")
    print(path)


if __name__ == "__main__":
    main()
