"""Where the rows of metrics.jsonl are shown besides: an interface, and what `tracking=` picks of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """A mirror of metrics.jsonl. Once it is made nothing that goes wrong with it reaches the training."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Show a row: kind, phase, epoch, step (the global one), and numbers."""

    def flush(self) -> None:
        """A checkpoint is about to be saved, from which no earlier row is shown again."""

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """End the run with its exit code and its last and best numbers, in bounded time. Safe to call twice."""


class NoLogger:
    """tracking=off: metrics.jsonl alone."""

    def log(self, row: Mapping[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None: ...


def make_logger(
    folder: Path,
    tracking: Mapping[str, Any],
    config: Mapping[str, Any],
    identity: Mapping[str, Any],
    *,
    resume_at: int | None,
    **timeouts: float,
) -> Logger:
    """Return the logger of tracking.mode; its packages are imported only here.

    config: the run's resolved config. identity: group, id, name, job_type, tags. resume_at: the global step that the
    run goes on from, or None. Raises ValueError for an unknown mode, and where its package is not installed.
    """
    mode = tracking.get("mode") or "off"  # YAML reads a bare off as false
    if mode == "off":
        return NoLogger()
    if mode == "tensorboard":
        from distill.record.tensorboard_logger import TensorBoardLogger

        return TensorBoardLogger(folder, config, resume_at=resume_at)
    if mode not in ("online", "offline"):
        raise ValueError(f"tracking.mode is {mode!r}: take one of online, offline, tensorboard, off")
    from distill.record.wandb_logger import WandbLogger

    return WandbLogger(folder, tracking, config, identity, resume=resume_at is not None, **timeouts)
