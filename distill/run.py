"""One experiment, from its RunSpec to result.json. Read this first."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from omegaconf import DictConfig

import distill.parallel as parallel
import distill.preflight as preflight
import distill.runtime as runtime
import distill.start as start
from distill.batch import Source
from distill.config import RunSpec, ScheduleSpec, class_of, frozen, instantiate, resolve
from distill.config.check import check_maps
from distill.criterion import criterion_of
from distill.data import Data, load_data
from distill.engine import hyperrule, synced
from distill.engine.checkpoint import Checkpoints
from distill.engine.choices import Choices, decide
from distill.engine.compiling import Compiling
from distill.engine.cuda_graphs import CudaGraph, Graph, without_graphs
from distill.engine.evaluate import Evaluation
from distill.engine.fit import Fit
from distill.engine.optim import without_sgds
from distill.engine.registered import check_registered
from distill.engine.state import Options
from distill.engine.static_buffers import StaticBuffers
from distill.errors import exit_code
from distill.locking import run_lock
from distill.method import Method, refuse
from distill.models import FeatureNet
from distill.models import build as build_net
from distill.models.quant import quantize_as
from distill.own_losses import check_losses
from distill.record import summary
from distill.record.features import measure_features
from distill.record.replay import answer_agent
from distill.record.reporter import NullReporter, Reporter, make_tracker, names_of
from distill.record.result import describe_run, finish
from distill.record.wandb_logger import outside_sweep
from distill.rehearsal import MachineTrial
from distill.result import Result
from distill.run_folder import RunFolder
from distill.signals import StopSignals
from distill.teachers.forward import Teachers, prepare

log = logging.getLogger(__name__)
EPOCH_SECONDS = 5.0  # between checkpoints where epochs are shorter


def run(cfg: DictConfig | RunSpec, folder: str | Path | None = None, *, table: bool = True) -> dict[str, Any]:
    """Run the experiment that `cfg` describes, or find it done already; return what result.json holds.

    folder: where, in place of the run's own. Cut off, it goes on from its last checkpoint. Two processes on one folder
    take turns. The end shows a small table. Raises ValueError for what the user can mend, NonFinite, NoValidCheckpoint,
    Stopped.
    """
    spec = cfg if isinstance(cfg, RunSpec) else resolve(cfg)
    spec = replace(spec, folder=Path(folder or spec.folder))
    place = RunFolder(spec.folder)
    parallel.start(spec.machine.device)
    with StopSignals(at_once=True) as stop, run_lock(place.path), runtime.threads_kept():
        result = place.result
        if result is None:
            place.refuse_folders()
            experiment = Experiment(spec, stop)
            with experiment.logged():
                for _ in experiment.fit.steps():
                    pass
                result = experiment.finish()
        else:
            place.remove_leftovers()
            if table:
                log.info("%s is done already: this is its result", place)
            if parallel.rank() == 0:
                answer_agent(spec, names_of(spec))
    result = result or place.result  # the processes after the first read what that has written
    if table and result and parallel.rank() == 0:
        summary.show_summary(spec, result)
    return result.to_json() if result else {}


def run_first(spec: RunSpec) -> None:
    """Run what another run needs: the training of a teacher, or of a student before. It is of no W&B sweep."""
    with outside_sweep():
        run(spec, table=False)


class Experiment:
    """A run with its data, nets and loop built, and its state restored.

    inputs: what it trains on, where runs like it share that; default: its own.
    quiet: no progress on the terminal, for runs side by side.
    """

    def __init__(
        self, spec: RunSpec, stop: StopSignals, *, inputs: Inputs | None = None, quiet: bool | None = None
    ) -> None:
        self.spec = spec
        if spec.note:
            log.info(spec.note)
        for caution in spec.cautions:
            log.warning(caution)
        self.inputs = inputs = inputs or make_inputs(spec)
        schedule = make_schedule(spec, inputs.data.info.num_train)
        begins = start.weights_of(spec.student, train=run_first)
        runtime.seed_everything(spec.seed)
        self.method = make_method(spec, inputs.data, inputs.teachers, inputs.device, begins)
        self.method.criterion = criterion_of(schedule.loss, schedule.label_smoothing, schedule.bce_threshold)
        if parallel.rank() > 0:  # other negatives and noise than the first process
            torch.manual_seed(spec.seed + 7919 * parallel.rank())
        if inputs.synced:
            synced.synchronize(self.method)
        else:
            inputs.compiling(net for net in self.method.modules() if isinstance(net, FeatureNet))
        self.packed = 1  # runs that took their steps in turn, this one among them
        self.callback = Reporter(spec.folder, quiet) if parallel.rank() == 0 else NullReporter()
        self.fit = self._make_fit(schedule, stop)
        resumed = self.fit.restore()
        if isinstance(self.callback, Reporter):
            self.callback.tracker = make_tracker(spec, resumed, inputs.choices.to_record())

    def _make_fit(self, schedule: ScheduleSpec, stop: StopSignals) -> Fit:
        inputs, folder = self.inputs, RunFolder(self.spec.folder)
        options = Options(
            inputs.autocast,
            scale=inputs.precision == "fp16",
            log_every=self.spec.log_every,
            save_seconds=60 * self.spec.save_minutes,
            epoch_seconds=EPOCH_SECONDS,
            graph=inputs.graph,
            overlap=self.spec.machine.overlap == "auto",
        )
        self.evaluation = Evaluation(inputs.data, inputs.autocast)
        saves = Checkpoints(folder.checkpoints)
        fit = Fit(self.method, inputs.source, None, schedule, options, saves, self.callback, stop)
        fit.buffers = inputs.buffers
        self.features = measure_features(fit, self.spec.evaluate, self.evaluation)
        return fit

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
            self.fit.saving.close()
            self.callback.close(code, self.fit)

    def finish(self) -> Result | None:
        """Measure the trained student, write the result and return it; None in the processes after the first."""
        if parallel.rank() > 0:
            return None
        inputs, teachers = self.inputs, self.inputs.teachers
        own = teachers.members if self.spec.teachers else []  # a run beside it may have brought some
        result = describe_run(self.spec, inputs.data, own, self.method, self.fit, self.evaluation)
        if self.features:
            result |= self.features.result(self.fit, own)
        found = teachers.cache.hit_rate() if teachers.cache and own else None
        result |= {
            "teacher_cache_found": found,
            "precision": inputs.precision,
            "choices": inputs.choices.to_record(),
            **runtime.describe_machine(inputs.device),
        }
        result["seconds"] = self.fit.speed.seconds_spent
        if self.packed > 1:  # whose steps are in these seconds, and in images_per_second
            result["packed"] = self.packed
        return finish(RunFolder(self.spec.folder), result, self.method, self.fit)


@dataclass(frozen=True)
class Inputs:
    """What a run trains on, and with what: all that runs side by side may share."""

    device: torch.device
    choices: Choices
    graph: Callable[[Any], Graph] | None  # makes what steps are recorded in; None: they run eagerly
    data: Data
    source: Source  # of training batches
    compiling: Compiling
    teachers: Teachers
    synced: bool  # BatchNorms see the whole batch, of which each process has a part
    buffers: StaticBuffers = field(default_factory=StaticBuffers)  # where a graph finds a step's batch

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""
        return self.choices.precision

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """The context that nets are run in."""
        return partial(runtime.autocast, self.device, self.precision)


def make_inputs(spec: RunSpec, sharing: Sequence[RunSpec] = ()) -> Inputs:
    """Load what a run trains on. Teachers that are not there yet are trained first.

    sharing: the runs that are to share this, itself among them; default: itself alone.
    """
    machine = spec.machine
    runtime.keep_pages()
    device = runtime.pick_device(parallel.start(machine.device))
    threads = torch.get_num_threads()
    if isinstance(machine.threads, int):
        torch.set_num_threads(machine.threads)
    preflight.check_weights(spec)
    data = load_data(spec.dataset, device, hyperrule.adapt(spec.schedule, spec.dataset))
    schedule = make_schedule(spec, data.info.num_train)
    over_all = synced.wanted(machine.sync_batchnorm, machine.compile, class_of(spec.method.node))
    mixed = not {"mixup", "cutmix"}.isdisjoint(schedule.of_batches)
    source = data.source(batch_size=schedule.batch_size, seed=spec.seed, **schedule.of_batches)
    if preflight.trains_first(spec):  # what does not fit is said now, and not after hours of a teacher's training
        preflight.check_fit(spec, data.info, source, over_all=over_all)
        check_losses(replace(spec, schedule=schedule), data.info)
    steps, batch = spec.method.batches(source.steps * schedule.epochs, schedule.batch_size, schedule.epochs)
    own = MachineTrial(replace(spec, schedule=schedule), data.info, source.steps * schedule.batch_size)
    beside = [MachineTrial(each, data.info, 0) for each in sharing]
    choices = decide(machine, device, steps, RunFolder(spec.folder).choices, own, beside)
    compiling = Compiling.of(machine.compile, batch, steps, device, trained=choices.trained, frozen=choices.frozen)
    how: dict[str, Any] = {"precision": choices.precision, "compiling": compiling, "mixed": mixed, "sharing": sharing}
    teachers = prepare(spec, data, device, train=run_first, **how)
    torch.set_num_threads(choices.threads or threads)  # now: the training of a teacher has had its own
    source = data.at_sizes(source, (net.size for net in teachers.nets if net.resizes))
    log.info("%s: %s", "compiling the nets that gain by it" if compiling.asked else "nets run eagerly", compiling.why)
    cached = teachers.cache is not None
    eager = without_graphs(machine.cuda_graphs, device, choices.precision, parallel.world(), data.info.size, cached)
    return Inputs(device, choices, None if eager else CudaGraph, data, source, compiling, teachers, over_all)


def make_method(
    spec: RunSpec, data: Data, teachers: Teachers, device: torch.device, begins: Path | None = None
) -> Method:
    """Build student and method, seeded by the caller, on the device. begins: the file of weights to start from."""
    given, info = spec.student, data.info
    how: dict[str, Any] = {"args": start.student_arguments(spec), "inits": start.student_inits(spec), "seed": spec.seed}
    shape: dict[str, Any] = {"in_chans": info.in_chans, "size": info.size}
    student = build_net(given.model, info.num_classes, **shape, pretrained=given.pretrained, **how)
    start.check_recipe(student, spec)
    if given.pretrained:
        start.log_pretrained(student)
    start.own_constants(student, given, info)
    start.begin(student, begins, spec.schedule.zero_head)
    if begins is not None:
        start.log_start_file(student, begins)
    if given.quantize:
        quantize_as(student, given.quantize)
    if spec.machine.grad_checkpointing:
        start.recompute(student)
    check_maps(spec.method.name, spec.method.taps, [student.name, *(net.name for net in teachers.nets)])
    method: Method = instantiate(spec.method.node, student, teachers.nets, info)
    check_registered(method)
    method.teacher_forward = teachers
    return method.to(device).to(memory_format=torch.channels_last)


def make_schedule(spec: RunSpec, images: int) -> ScheduleSpec:
    """Return the schedule for so many training images: at the student's own rate (0.01 of the mobile nets in CRD's
    protocol), and with a rule carried out. Raises ValueError for what the method cannot honour.
    """
    given = spec.schedule.optimizer
    optimizer = without_sgds({key: value for key, value in given.items() if value is not None})
    lr = spec.schedule.rate_of(spec.student.model, spec.student.lr_scale)
    scaled = replace(spec.schedule, optimizer=frozen(optimizer), lr=lr)
    fitted = hyperrule.by_rule(scaled, images)
    refuse(class_of(spec.method.node), spec.method.name, vars(fitted), parallel.world(), spec.method.node)
    return fitted


class _Callable(ModuleType):
    """This module, which `distill.run(...)` calls: a package has one attribute for its module and its function."""

    def __call__(self, *words: Any, **keys: Any) -> Any:
        return import_module("distill.api").run(*words, **keys)  # which stands above


sys.modules[__name__].__class__ = _Callable
