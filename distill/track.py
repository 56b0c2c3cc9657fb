"""The numbers of a run: metrics.jsonl in its folder is the truth, Weights & Biases a mirror that may fail.

Training never waits for the mirror and never stops because of it: a server that cannot be reached at the
start means an offline run (one warning), an error later means no mirror (one warning), and the end is bounded
by a timeout. wandb is imported only when tracking is on.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.files import first_line, plain, sweep, write_json, write_text

METRICS = "metrics.jsonl"
MODES = ("online", "offline", "off")
_log = logging.getLogger(__name__)


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl in `folder`; a line that a killed run left half-written is passed over."""
    path = Path(folder) / METRICS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [row for row in map(_row, lines) if row is not None]


class Tracker:
    """Writes each row to metrics.jsonl and shows it to W&B.

    cfg_tracking: mode (online, offline or off), project, entity. config: the run's resolved config, for W&B.
    identity: group, id, name, job_type, tags. resume_at: the global step of the checkpoint that the run goes
    on from (or a tuple that ends in it): rows of later steps are dropped, since they will be written again;
    None is a run that starts anew and drops all. Log the row of an epoch before the checkpoint of its end is
    saved. Raises ValueError for an unknown mode and when tracking is wanted but wandb is not installed.
    """

    def __init__(self, folder: str | Path, cfg_tracking: Mapping[str, Any], config: Mapping[str, Any],
                 identity: Mapping[str, Any], resume_at: int | tuple[Any, ...] | None = None, *,
                 init_timeout: float = 20, finish_timeout: float = 60) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mirror = Mirror(self.folder, cfg_tracking, config, identity, resume=resume_at is not None,
                             init_timeout=init_timeout, finish_timeout=finish_timeout)
        sweep(self.folder)
        write_json(self.folder / "tracking.json", {"identity": identity, "config": config})
        step = resume_at[-1] if isinstance(resume_at, tuple) else resume_at
        self._kept = {_key(row) for row in _drop_after(self.folder, step)}
        self._file = open(self.folder / METRICS, "ab", buffering=0)  # noqa: SIM115 (open until finish)
        self._pending, self._warned = b"", False

    def log(self, row: Mapping[str, Any]) -> None:
        """Append `row` (kind, phase, epoch, step = the global one, numbers); null for what is not finite.

        A row that was logged before a kill and is logged again after the resume is written once.
        """
        if _key(row) in self._kept:
            return
        values = plain(row)
        self._pending += json.dumps(values, allow_nan=False).encode() + b"\n"
        self._write()
        self.mirror.log(values)

    def finish(self, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        """Close file and mirror, in bounded time. summary: last and best numbers. Safe to call twice."""
        if not self._file.closed:
            self._write()
            self._file.close()
        self.mirror.finish(exit_code, plain(summary or {}))

    def _write(self) -> None:
        """One write a row, so that a kill leaves whole lines; what a full disk refuses waits for the next."""
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending):]
        except OSError as error:
            if not self._warned:
                _log.warning("%s cannot be written (%s): its rows wait for the next", self._file.name, error)
            self._warned = True


class Mirror:
    """A W&B run that never raises after construction. `run` is None when there is none (any more).

    resume: the run goes on from a checkpoint. Raises ValueError as Tracker does.
    """

    def __init__(self, folder: Path, cfg: Mapping[str, Any], config: Mapping[str, Any],
                 identity: Mapping[str, Any], *, resume: bool = False,
                 init_timeout: float = 20, finish_timeout: float = 60) -> None:
        self.run: Any = None
        self.online, self._finish_timeout = False, finish_timeout
        mode = _mode(cfg)
        if mode == "off":
            return
        wandb = _import_wandb()
        settings = wandb.Settings(
            init_timeout=init_timeout, finish_timeout=finish_timeout, reinit="create_new",
            console="off", silent=True, save_code=False, disable_code=True, disable_git=True)
        arguments = {
            "project": cfg.get("project"), "entity": cfg.get("entity"), "dir": str(folder),
            "config": plain(config), "settings": settings, "id": identity["id"], "name": identity["name"],
            "group": identity["group"], "job_type": identity["job_type"],
            "tags": [str(tag)[:64] for tag in identity["tags"] if tag]}
        self._start(wandb, mode, resume, arguments)

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand a row to W&B, which sends it from another process and passes over steps it already has."""
        if self.run is None:
            return
        prefix = "step/" if row.get("kind") == "step" else ""
        try:
            self.run.log(_flat(row, prefix), step=row["step"])
        except Exception as error:
            self._give_up(error)

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """End the run with its exit code; what could not be sent within finish_timeout stays on disk."""
        run, self.run = self.run, None
        if run is None:
            return
        start = time.monotonic()
        try:
            run.summary.update(_flat(summary, ""))
            run.finish(exit_code=exit_code)
        except Exception as error:
            _log.warning("W&B did not finish (%s); metrics.jsonl is complete", first_line(error))
        if not self.online or time.monotonic() - start >= self._finish_timeout:
            _log.info("to send this run to W&B: wandb sync %s", Path(run.dir).parent)

    def _start(self, wandb: ModuleType, mode: str, resume: bool, arguments: dict[str, Any]) -> None:
        """Set `run`; an online run that cannot start becomes an offline one in the same process.

        A run that starts anew replaces what the server has under its id; offline there is nothing to resume.
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
        try:
            self.run = wandb.init(mode="offline", **arguments)
            _axes(self.run)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        _log.warning("W&B failed (%s): going on without it, metrics.jsonl has all rows", first_line(error))


def _mode(cfg: Mapping[str, Any]) -> str:
    """The mode asked for; the environment's WANDB_MODE may only ask for less."""
    mode = cfg.get("mode") or "off"  # YAML reads a bare off as false
    if mode not in MODES:
        raise ValueError(f"tracking.mode is {mode!r}: take one of {', '.join(MODES)}")
    asked = {"offline": 1, "dryrun": 1, "disabled": 2}.get(os.environ.get("WANDB_MODE", ""), 0)
    return MODES[max(MODES.index(mode), asked)]


def _import_wandb() -> ModuleType:
    """wandb, told to ask nothing, to print nothing and to leave the home folder (and its quota) alone."""
    scratch = Path(tempfile.gettempdir()) / f"distill-wandb-{getattr(os, 'getuid', int)()}"
    os.environ["WANDB_SILENT"] = "true"  # also what keeps it from asking for a key on a terminal
    for name, value in {"DATA_DIR": scratch, "CACHE_DIR": scratch, "ERROR_REPORTING": "false"}.items():
        os.environ.setdefault(f"WANDB_{name}", str(value))
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"Tracking wants the package wandb, which cannot be imported ({first_line(error)}): "
                         "run `pip install wandb`, or take tracking=off") from error
    return wandb


def _axes(run: Any) -> None:
    """Rows of kind epoch are drawn over the epoch; those of kind step, named step/*, over the global step."""
    run.define_metric("epoch")
    run.define_metric("step")
    run.define_metric("step/*", step_metric="step")
    run.define_metric("*", step_metric="epoch")


def _flat(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a/b": 1}, without nulls; phase, epoch and step stay unprefixed."""
    return {name if name in ("phase", "epoch", "step") else prefix + name: value
            for name, value in _leaves(row) if value is not None and name != "kind"}


def _leaves(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{below}", leaf) for below, leaf in _leaves(value))
        else:
            yield name, value


def _drop_after(folder: Path, step: int | None) -> list[dict[str, Any]]:
    """Leave in metrics.jsonl the whole rows of steps up to `step` (None: none), and return them."""
    rows = [row for row in read_rows(folder) if step is not None and row["step"] <= step]
    if (folder / METRICS).exists():
        write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("kind", "phase", "epoch", "step"))


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
