"""One experiment, from its configuration to result.json. Read this first."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from omegaconf import DictConfig

from distill import config, parallel, runtime, start
from distill.batch import Source
from distill.config import protocol
from distill.config.check import check_maps
from distill.criterion import CrossEntropy
from distill.data import Data, load
from distill.engine import hyperrule as bit
from distill.engine.checkpoint import Checkpoints
from distill.engine.compiling import ASKED, compile_forward, gains, why_compile
from distill.engine.cuda_graphs import CudaGraph, without_graphs
from distill.engine.evaluate import accuracy
from distill.engine.fit import Fit
from distill.engine.optim import without_sgds
from distill.engine.state import Options
from distill.errors import exit_code
from distill.method import Method, refuse
from distill.models import FeatureNet, build
from distill.models.quant import quantize_as
from distill.record import summary
from distill.record.reporter import Nobody, Watch, make_tracker
from distill.record.result import describe, finish
from distill.record.wandb_logger import outside_sweep
from distill.result import Result
from distill.run_folder import RunFolder
from distill.signals import StopSignals
from distill.teachers.cache import Cached, cached
from distill.teachers.prepared import Prepared
from distill.teachers.store import Teacher, get_teachers

log = logging.getLogger(__name__)
EPOCH_SECONDS = 15.0  # on a GPU, where an epoch may take one: more frequent checkpoints would be what it takes


def run(cfg: DictConfig, folder: str | Path, *, table: bool = True) -> dict[str, Any]:
    """Run the experiment that `cfg` describes in `folder`, or find it done already; return what result.json holds.

    Cut off, it goes on from its last checkpoint. Two processes on one folder take turns. The end shows a small table.
    Raises ValueError for what the user can mend, NonFinite, NoValidCheckpoint, Stopped.
    """
    place = RunFolder(folder)
    parallel.start(str(cfg.device))
    with StopSignals(at_once=True) as stop, only_here(place.path):
        result = place.result
        if result is None:
            experiment = Experiment(cfg, place.path, stop)
            with experiment.logged():
                for _ in experiment.fit.steps():
                    pass
                result = experiment.finish()
        elif table:
            log.info("%s is done already: this is its result", place)
    result = result or place.result  # the processes after the first read what that has written
    if table and result and parallel.rank() == 0:
        summary.show(cfg, result)
    return result.to_json() if result else {}


class Experiment:
    """A run with its data, nets and loop built, and its state restored.

    like: a run on the same data, batches and teachers, which are then shared instead of loaded again.
    reads: what of its teachers' outputs it and the runs like it read; default: what its own method does.
    quiet: no progress on the terminal, for runs side by side.
    """

    def __init__(
        self,
        cfg: DictConfig,
        folder: Path,
        stop: StopSignals,
        *,
        like: Experiment | None = None,
        reads: Collection[str] | None = None,
        quiet: bool | None = None,
    ) -> None:
        self.cfg, self.folder, self.started = cfg, folder, time.time()
        if line := protocol.note(cfg):
            log.info(line)
        runtime.keep_pages()
        self.device = runtime.pick_device(parallel.start(str(cfg.device)))
        self.precision = runtime.pick_precision(str(cfg.precision), self.device)
        if cfg.threads:
            torch.set_num_threads(int(cfg.threads))
        self.data: Data = like.data if like else load(config.plain(cfg, "dataset"), self.device, bit.adapt(cfg))
        schedule = bit.resolve(make_schedule(cfg), self.data.info.num_train)
        refuse(config.class_of(cfg.method), cfg.method.name, schedule, parallel.world())
        self.teachers: list[Teacher] = like.teachers if like else self._get_teachers()
        with outside_sweep():
            begins = start.weights_of(cfg, train=partial(run, table=False))
        runtime.seed_everything(int(cfg.seed))
        self.method = make_method(cfg, self.data, self.teachers, self.device, begins)
        if parallel.rank() > 0:  # other negatives and noise than the first process
            torch.manual_seed(int(cfg.seed) + 7919 * parallel.rank())
        refuse(self.method, cfg.method.name, schedule)
        self.method.criterion = CrossEntropy(float(schedule.get("label_smoothing") or 0.0))
        batch = int(schedule["batch_size"])
        options = {key: kind(schedule[key]) for key, kind in (("mixup", float), ("drawn", int)) if schedule.get(key)}
        self.source: Source = like.source if like else self.data.source(batch_size=batch, seed=int(cfg.seed), **options)
        self._hasten(batch, self.source.steps * int(schedule["epochs"]), like)
        reads = config.reads(cfg) if reads is None else reads
        self.cache: Cached | None = like.cache if like else self._remember(reads, "mixup" in options)
        how = self._options()
        self.watch = Watch(folder, quiet) if parallel.rank() == 0 else Nobody()
        self.fit = Fit(
            self.method,
            self.source,
            partial(accuracy, data=self.data, autocast=how.autocast),
            schedule,
            how,
            Checkpoints(RunFolder(folder).checkpoints),
            self.watch,
            stop,
        )
        teacher = config.teacher_name(cfg) if self.teachers else None
        resumed = self.fit.restore()
        if isinstance(self.watch, Watch):
            self.watch.tracker = make_tracker(cfg, folder, resumed, teacher)

    def _get_teachers(self) -> list[Teacher]:
        with outside_sweep():
            return get_teachers(self.cfg, self.data, self.device, train=partial(run, table=False))

    def _hasten(self, batch: int, steps: int, like: Experiment | None) -> None:
        """Fold and cast the teachers; compile teachers and trained nets where the run is long enough to pay for it."""
        self.compiled, why = why_compile(self.cfg.compile, steps, self.device)
        nets = [net for net in self.method.modules() if isinstance(net, FeatureNet)]
        if like:
            self.method.consult = like.method.consult
        else:
            prepared = Prepared([teacher.net for teacher in self.teachers], runtime.DTYPES[self.precision])
            nets += prepared.copies.values()
            self.method.consult = prepared
            log.info("%s: %s", "compiling the nets that gain by it" if self.compiled else "nets run eagerly", why)
        for net in nets if self.compiled else ():
            if why == ASKED or gains(net, self.device):
                compile_forward(net, batch)

    def _remember(self, reads: Collection[str], mixup: bool) -> Cached | None:
        """Put the teachers' cache in front of them, where there is to be one."""
        if not self.teachers:
            return None
        cache = cached(
            self.cfg.teacher.get("cache"),
            self.method.consult,
            self.teachers,
            self.data,
            reads=reads,
            precision=self.precision,
            folder=Path(str(self.cfg.output)) / self.data.info.name / "teachers",
            compiled=self.compiled,
            mixup=mixup,
        )
        self.method.consult = cache or self.method.consult
        return cache

    def _options(self) -> Options:
        size, world = self.data.info.size, parallel.world()
        return Options(
            partial(runtime.autocast, self.device, self.precision),
            scale=self.precision == "fp16",
            log_every=int(self.cfg.log_every),
            save_seconds=60 * float(self.cfg.save_minutes),
            epoch_seconds=EPOCH_SECONDS if self.device.type == "cuda" else 0.0,
            graph=None if without_graphs(self.cfg.cuda_graphs, self.device, self.precision, world, size) else CudaGraph,
        )

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Close the run's log, and its mirror, with the exit code that fits how the block ends."""
        code = 0
        try:
            yield
        except BaseException as error:
            code = exit_code(error)
            raise
        finally:
            self.watch.close(code, self.fit)

    def finish(self) -> Result | None:
        """Measure the trained student, write the result and return it; None in the processes after the first."""
        if parallel.rank() > 0:
            return None
        folder = RunFolder(self.folder)
        result = describe(self.cfg, folder, self.data, self.teachers, self.method, self.fit)
        found = self.cache.share_found() if self.cache else None
        result |= {"teacher_cache_found": found, "precision": self.precision, **runtime.describe(self.device)}
        result["seconds"] = time.time() - self.started
        return finish(folder, result, self.method, self.fit)


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, after waiting for another process that holds it.

    Of the processes that torchrun started the first holds it for all.
    """
    if parallel.rank() > 0:
        parallel.barrier()
        yield
        parallel.barrier()
        return
    lock = RunFolder(folder).lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process works in %s: waiting for it", folder)
        lock.acquire()
    except OSError as error:
        why = f"{folder} cannot be written ({error.strerror}): choose another folder with output=..."
        raise ValueError(why) from error
    try:
        parallel.barrier()
        yield
        parallel.barrier()
    finally:
        lock.release()


def make_method(
    cfg: DictConfig, data: Data, teachers: list[Teacher], device: torch.device, begins: Path | None = None
) -> Method:
    """Build student and method, seeded by the caller, on the device. begins: the file of weights to start from."""
    spec, info = config.plain(cfg, "student"), data.info
    student = build(
        spec["model"],
        info.num_classes,
        in_chans=info.in_chans,
        size=info.size,
        pretrained=bool(spec.get("pretrained")),
        args=spec.get("args") or {},
        seed=int(cfg.seed),
    )
    start.own_constants(student, spec, info)
    start.begin(student, begins, bool(cfg.schedule.get("zero_head")))
    if spec.get("quantize"):
        quantize_as(student, spec["quantize"])
    nets = [t.net for t in teachers]
    check_maps(cfg.method.name, config.taps(cfg), [student.name, *(net.name for net in nets)])
    method: Method = config.build(cfg.method, student=student, teachers=nets, data=info)
    return method.to(device).to(memory_format=torch.channels_last)


def make_schedule(cfg: DictConfig) -> dict[str, Any]:
    """Return the schedule with the student's learning-rate factor put in (0.2 for the mobile nets' 0.01)."""
    schedule: dict[str, Any] = config.plain(cfg, "schedule")
    given = {key: value for key, value in schedule["optimizer"].items() if value is not None}
    optimizer, scale = without_sgds(given), float(cfg.student.get("lr_scale") or 1.0)
    return schedule | {"optimizer": optimizer, "lr": float(schedule["lr"]) * scale}
