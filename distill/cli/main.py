"""A run's or a sweep's command line, handed over to Hydra: `python -m distill [group=option] [key=value] [-m]`.

What is wrong with a command is said before torch is imported: one sentence and exit code 2. The exit codes
are those of distill.errors. HYDRA_FULL_ERROR=1 adds the traceback.
"""

from __future__ import annotations

import logging
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import hydra._internal.utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import distill.config as config
import distill.errors as errors
import distill.signals as signals
import distill.torchrun as torchrun
from distill.cli.command import BASE, Command, read_command
from distill.cli.sentences import format_error
from distill.cli.verbs import help_lines, output_closed, print_error, show_traceback
from distill.config.check import check
from distill.content.memo import files_unchanged
from distill.files import SaveError
from distill.result import Result
from distill.sweep import add_launchers, failures, launched, plan
from distill.terminal import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv` (default: the program's own) and return the exit code."""
    sys.argv = [sys.argv[0], *(sys.argv[1:] if argv is None else argv)]
    given = sys.argv[1:]
    logging.raiseExceptions = False  # a line that a full disk keeps from a log ends nothing, and is no traceback
    code = _stoppable(given)
    while signals.call_previous_handler():  # a launcher's handler has seen the signal, and the run is to go on
        code = _stoppable(given)
    return code


def _stoppable(argv: Sequence[str]) -> int:
    """The exit code of a command that a signal may end at any moment, as early as here."""
    try:
        with signals.StopSignals(at_once=True) as stop:
            return _understood(argv, stop)
    except (errors.Stopped, KeyboardInterrupt) as stopped:
        return signals.report_stop(stopped)


def _understood(argv: Sequence[str], stop: signals.StopSignals) -> int:
    """Read a command, carry it out, and say what is wrong with it."""
    try:
        add_launchers()
        config.register()
        OmegaConf.register_new_resolver("verbs", help_lines, replace=True)
        with files_unchanged():
            command = read_command(argv)
            if command.jobs is not None:
                return errors.USAGE if plan.show_plan(command.jobs) else errors.DONE
            if command.multirun:
                torchrun.refuse_sweep()
            sys.argv[1:] = command.argv
            return _execute(command)
    except BrokenPipeError:
        return output_closed()
    except Exception as error:
        if stop.received is not None:  # some libraries turn the end of their work into errors of their own
            raise signals.stopped(stop.received) from error
        show_traceback()
        return print_error(format_error(error), errors.FAILED if isinstance(error, SaveError) else errors.USAGE)


def _execute(command: Command) -> int:
    """Hand over to Hydra, which calls `_job` once a run; then report what failed."""
    stopped: Any = 0
    launched.take_launched()
    with failures.collected_failures() as failed_runs:
        try:
            with _own_words():
                hydra.main(**BASE, config_path=str(config.conf_dir()), config_name="config")(_job)()
        except SystemExit as leaving:
            stopped = leaving.code
        if command.multirun and stopped == 0:
            from distill.report.after_sweep import comparison  # after the runs: scipy takes its time

            comparison(launched.take_launched())
    failed = _report(failed_runs, command.multirun)
    return (stopped if isinstance(stopped, int) else errors.FAILED) or failed


@contextmanager
def _own_words() -> Iterator[None]:
    """What the user can mend and Hydra finds, or a launcher, is a sentence with its exit code; the rest is Hydra's."""
    reports = hydra_utils.run_and_report

    def told(function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            mendable = isinstance(error, (HydraException, OmegaConfBaseException))
            code = errors.USAGE if mendable else errors.exit_code(error)
            if code == errors.FAILED:
                raise
            show_traceback()
            sys.exit(print_error(format_error(error), code))

    hydra_utils.run_and_report = lambda func: reports(partial(told, func))
    try:
        yield
    finally:
        hydra_utils.run_and_report = reports


def _job(cfg: DictConfig) -> float:
    """One run. A failure is noted and does not reach Hydra, so that the other jobs of a sweep go on."""
    try:
        with files_unchanged(fresh=HydraConfig.get().mode == RunMode.MULTIRUN):  # hours after the job before
            check(cfg)
            launched.note_launched([Path(config.identity(cfg)["folder"]).absolute()])
            # torch is imported here, after everything that can be wrong with the command
            from distill.run import run

            result = run(cfg)
        return searched_value(result)
    except (errors.Stopped, KeyboardInterrupt) as stop:
        _note(cfg, stop)
        sys.exit(errors.exit_code(stop))
    except Exception as error:
        show_traceback()
        _note(cfg, error)
        return float("nan")


def searched_value(result: Mapping[str, Any]) -> float:
    """What a hyper-parameter search maximises: the last score in percent of a run's result; NaN where it has none."""
    last = Result.from_json(dict(result)).score.last
    return math.nan if last is None else last


def _note(cfg: DictConfig, error: BaseException) -> None:
    """Write one line about a failed job, and the traceback of what is nobody's mistake into the run's log."""
    code = errors.exit_code(error)
    job = HydraConfig.get()
    why = format_error(error)
    if code == errors.FAILED and not isinstance(error, SaveError):
        log = Path(job.runtime.output_dir) / f"{job.job.name}.log"
        with suppress(OSError), open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
        why = f"{type(error).__name__}: {why} (traceback in {log})"
    what = " ".join(job.overrides.task)
    failures.note_failure(code, what, why)
    if job.mode == RunMode.MULTIRUN:
        print_error(f"failed: {what}: {why}", code)


def _report(failed_runs: list[dict[str, Any]], multirun: bool) -> int:
    """Say what failed. Returns the run's own exit code; of a sweep, 2 if all were usage errors, else 1."""
    if not failed_runs:
        return errors.DONE
    if not multirun:
        return print_error(failed_runs[0]["why"], failed_runs[0]["code"])
    print_error(f"{len(failed_runs)} run{'s' * (len(failed_runs) > 1)} of the sweep failed:", errors.FAILED)
    for failure in failed_runs:
        print(printable(f"  {failure['what']}: {failure['why']}"), file=sys.stderr)
    return errors.USAGE if {failure["code"] for failure in failed_runs} == {errors.USAGE} else errors.FAILED
