"""TensorBoard as a mirror of metrics.jsonl: `tensorboard --logdir outputs` shows all runs below a folder.

Event files lie in the run's folder. A run that goes on from a checkpoint hides what was written after it; one that
starts anew drops all. A disk that is full means no mirror (one warning).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.files import first_line, json_ready
from distill.record.rows import flatten_row
from distill.run_folder import RunFolder

_log = logging.getLogger(__name__)


class TensorBoardLogger:
    """Scalars over the global step: an epoch's by their names, a step's as step/*; the configuration as text.

    Raises ValueError where tensorboard is not installed.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, resume_at: int | None) -> None:
        self.folder, self._last = RunFolder(folder).events, resume_at or 0
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f"tracking=tensorboard wants the package tensorboard, which cannot be imported ({first_line(error)}): "
                "run `pip install tensorboard`, or take tracking=off"
            ) from error
        try:
            if resume_at is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            purge = None if resume_at is None else resume_at + 1
            self.writer = SummaryWriter(str(self.folder), purge_step=purge)
            self.writer.add_text("config", f"```json\n{json.dumps(json_ready(config), indent=2)}\n```", 0)
        except Exception as error:
            self._give_up(error)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write a row's numbers; they reach the disk from a thread, within two minutes or with `flush`."""
        self._last = row["step"]
        self._write({name: value for name, value in flatten_row(row).items() if name not in ("phase", "step")})

    def flush(self) -> None:
        """Bring all rows so far to the disk: of a process that is killed, the others are gone."""
        try:
            if self.writer is not None:
                self.writer.flush()
        except Exception as error:
            self._give_up(error)

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Write the last and best numbers and close the file."""
        self._write(flatten_row(summary))
        try:
            if self.writer is not None:
                self.writer.close()
        except Exception as error:
            self._give_up(error)
        self.writer = None

    def _write(self, values: Mapping[str, Any]) -> None:
        try:
            for name, value in values.items() if self.writer is not None else ():
                if isinstance(value, int | float):
                    self.writer.add_scalar(name, value, self._last)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.writer = None
        _log.warning("TensorBoard failed (%s): going on without it, metrics.jsonl has all rows", first_line(error))
