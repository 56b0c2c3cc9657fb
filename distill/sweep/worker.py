"""What runs inside a job's own process: one command line, its output in the run's log.txt."""

from __future__ import annotations

import faulthandler
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any


def process(argv: list[str], folder: str, env: Mapping[str, str]) -> None:
    """The body of a process of the local launcher: run the command and leave with its exit code."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which passes it on
    os.environ.update(env)
    threading.Thread(target=_follow_parent, daemon=True).start()
    sys.exit(run(argv, folder))


def run(argv: list[str], folder: str) -> int:
    """Run `python -m distill <argv>` in this process, output in <folder>/log.txt; return its exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # the log shall hold the traceback
    with _output_to(Path(folder) / "log.txt"):
        faulthandler.enable()
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}  python -m distill {shlex.join(argv)}", flush=True)
        from distill import cli

        sys.argv = sys.argv[:1]
        return cli.main(argv)


@dataclass
class Task:
    """A job to be pickled, run elsewhere, and handed in again after a preemption (submitit's protocol)."""

    argv: list[str]
    folder: str

    def __call__(self) -> int:
        code = run(self.argv, self.folder)
        return code if code >= 0 else sys.exit(code)  # submitit's handler has requeued the job: no result yet

    def checkpoint(self, *_: Any) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _follow_parent() -> None:
    """Should the launcher be killed, save and leave rather than go on unseen."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append standard output and error, those of subprocesses too, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    kept = [os.dup(number) for number in (1, 2)]
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    try:
        yield
    finally:
        _flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
