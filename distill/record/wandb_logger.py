"""Weights & Biases as a mirror of metrics.jsonl: nothing that goes wrong here reaches the training.

A server that cannot be reached at the start means an offline run (one warning), an error later means no
mirror (one warning), and the end is bounded by a timeout. wandb is imported only when tracking is on.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.files import Backoff, first_line, json_ready
from distill.record.rows import flatten_row
from distill.result import Result
from distill.run_folder import RunFolder

_MODES = ("online", "offline", "off")
LONGEST_NAME = 128  # characters
SWEEP = ("WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID", "WANDB_SWEEP_ID")  # what W&B's agent tells the process it starts
_log = logging.getLogger(__name__)


class WandbLogger:
    """A W&B run that never raises after construction. `run` is None when there is none (any more).

    resume: the run goes on from a checkpoint: its rows up to there are handed over again, for W&B may lack them. Raises
    ValueError where wandb is not installed.
    """

    def __init__(
        self,
        folder: Path,
        tracking: Mapping[str, Any],
        config: Mapping[str, Any],
        identity: Mapping[str, Any],
        *,
        resume: bool = False,
        init_timeout: float = 20,
        finish_timeout: float = 60,
    ) -> None:
        self.run: Any = None
        self.folder, self.artifact = folder, bool(tracking.get("artifact"))
        self.online, self._finish_timeout = False, finish_timeout
        self.sent = False  # whether the server had all of it when the run was finished
        self._refused = Backoff()
        self._behind = resume  # rows of the folder have not been handed over
        self._arguments: dict[str, Any] = {}
        mode = _mode(tracking["mode"])
        if mode == "off":
            return
        wandb = _import_wandb()
        try:
            self._arguments = _arguments(wandb, folder, tracking, config, identity, init_timeout, finish_timeout)
            self._start(wandb, mode, resume, self._arguments)
        except Exception as error:
            self._give_up(error)

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand a row to W&B, which sends it from another process and passes over steps it already has."""
        if self.run is None:
            return self._try_again() if self._refused.due and self._arguments else None
        try:
            self._catch_up(self.run)
            self.run.log(flatten_row(row), step=row["step"])
        except Exception as error:
            self._give_up(error)

    def flush(self) -> None:
        """Nothing: a run that goes on hands over again what W&B lacks."""

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """End the run with its exit code, a finished one with its result as a table and, when asked, the student.

        What could not be sent within finish_timeout stays on disk.
        """
        if self.run is None and self._refused.wait and self._arguments:
            self._try_again()
        run, self.run = self.run, None
        if run is None:
            return
        start = time.monotonic()
        try:
            self._catch_up(run)
            run.summary.update(flatten_row(summary))
            if exit_code == 0:
                self._upload(run)
            run.finish(exit_code=exit_code)
            self.sent = self.online and time.monotonic() - start < self._finish_timeout
        except Exception as error:
            _log.warning("W&B did not finish (%s); metrics.jsonl is complete", first_line(error))
        if not self.sent:
            _log.info("to send this run to W&B: wandb sync %s", Path(run.dir).parent)

    def _upload(self, run: Any) -> None:
        """Give W&B what is left of a finished run, if there is a result yet."""
        try:
            if result := RunFolder(self.folder).result:
                _upload(_import_wandb(), run, RunFolder(self.folder), result, self.artifact)
        except Exception as error:
            _log.warning("W&B did not take the result (%s): it is in %s", first_line(error), self.folder)

    def _start(self, wandb: ModuleType, mode: str, resume: bool, arguments: dict[str, Any]) -> None:
        """Set `run`; an online run that cannot start becomes an offline one in the same process.

        A run that starts anew has an id of its own. Offline there is nothing to resume, and what
        is sent later may be the only part that is, or take the place of what was (wandb/wandb#5865): it has all rows.
        """
        if mode == "online":
            try:
                self.run = wandb.init(mode="online", resume="allow" if resume else None, **arguments)
                self.online = True
                return _axes(self.run)
            except Exception as error:
                _log.warning("W&B cannot be used (%s): tracking this run offline", first_line(error))
                wandb.teardown()  # the run that did not start would keep its id
        self.online = False
        self.run = wandb.init(mode="offline", **arguments)
        _axes(self.run)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        wait = self._refused.failed()
        _log.warning("W&B failed (%s): going on without it, metrics.jsonl has all rows; tried again in %.0f s",
                     first_line(error), wait)  # fmt: skip

    def _try_again(self) -> None:
        """Begin an offline run with all rows so far: what failed may have been a disk that was full."""
        try:
            self._start(_import_wandb(), "offline", False, self._arguments)
            self._behind = True
            self._catch_up(self.run)
            self._refused.succeeded()
        except Exception as error:
            self._give_up(error)

    def _catch_up(self, run: Any) -> None:
        """Hand over all rows so far, where that is to be done; W&B passes over those that its server has already."""
        behind, self._behind = self._behind, False
        for row in RunFolder(self.folder).rows() if behind else ():
            run.log(flatten_row(row), step=row["step"])


def _mode(asked: str) -> str:
    """The mode asked for, online or offline; the environment's WANDB_MODE may only ask for less."""
    least = {"offline": 1, "dryrun": 1, "disabled": 2}.get(os.environ.get("WANDB_MODE", ""), 0)
    return _MODES[max(_MODES.index(asked), least)]


def _import_wandb() -> ModuleType:
    """wandb, told to ask nothing, to print nothing and to leave the home folder (and its quota) alone."""
    scratch = Path(tempfile.gettempdir()) / f"distill-wandb-{getattr(os, 'getuid', int)()}"
    os.environ["WANDB_SILENT"] = "true"  # also what keeps it from asking for a key on a terminal
    for name, value in {"DATA_DIR": scratch, "CACHE_DIR": scratch, "ERROR_REPORTING": "false"}.items():
        os.environ.setdefault(f"WANDB_{name}", str(value))
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f"Tracking wants the package wandb, which cannot be imported ({first_line(error)}): "
            "run `pip install wandb`, or take tracking=off"
        ) from error
    return wandb


def _arguments(
    wandb: ModuleType,
    folder: Path,
    tracking: Mapping[str, Any],
    config: Mapping[str, Any],
    identity: Mapping[str, Any],
    init_timeout: float,
    finish_timeout: float,
) -> dict[str, Any]:
    """What wandb.init is told besides the mode. create_new: two runs in one process never become one."""
    bounds = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
    still = {"console": "off", "silent": True, "save_code": False, "disable_code": True, "disable_git": True}
    names = {name: _cut(str(identity[name])) for name in ("id", "name", "group", "job_type")}
    return {
        **names,
        "tags": [str(tag)[:64] for tag in identity["tags"] if tag],
        "project": tracking.get("project"),
        "entity": tracking.get("entity"),
        "dir": str(folder),
        "config": json_ready(config),
        "settings": wandb.Settings(reinit="create_new", **bounds, **still),
    }


def _cut(name: str) -> str:
    """A name as long as W&B's server takes, which refuses a run with a longer one; hash and seed stand at the end."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 33]}...{name[-30:]}"


def _axes(run: Any) -> None:
    """Rows of kind epoch are drawn over the epoch; those of kind step, named step/*, over the global step."""
    run.define_metric("epoch")
    run.define_metric("step")
    run.define_metric("step/*", step_metric="step")
    run.define_metric("*", step_metric="epoch")


def _upload(wandb: ModuleType, run: Any, folder: RunFolder, result: Result, artifact: bool) -> None:
    """The final table, one row of all that result.json holds in single values; and the student's weights."""
    skipped = ("command", "files/", "versions/")
    values = {name: value for name, value in flatten_row(result.document).items() if not name.startswith(skipped)}
    single = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
    run.log({"result": wandb.Table(columns=list(single), data=[list(single.values())])})
    if not artifact:
        return
    student = wandb.Artifact(f"student-{run.id}", type="model", metadata=single)
    for path in (folder.student, folder.best):
        if path.exists():
            student.add_file(str(path))
    run.log_artifact(student)


@contextmanager
def outside_sweep() -> Iterator[None]:
    """Runs in here are none of the W&B sweep whose agent started this process: the teachers of the run it asked for."""
    names = [name for name in SWEEP if name in os.environ] if "WANDB_SWEEP_ID" in os.environ else []
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)
        if hidden and "wandb" in sys.modules:
            sys.modules["wandb"].teardown()  # or it would go by the environment that it saw first
