"""What runs inside a job's own process: one command line, its output in the run's log.txt."""

from __future__ import annotations

import faulthandler
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, TextIO

from distill.files import PASSING
from distill.run_folder import RunFolder
from distill.signals import stop_signals
from distill.terminal import SafeStream


def process(argv: list[str], folder: str, env: Mapping[str, str]) -> None:
    """The body of a process of the local launcher: run the command and leave with its exit code."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())  # which the process that it was forked from holds back
    os.environ.update(env)
    threading.Thread(target=_follow_parent, daemon=True).start()
    sys.exit(run(argv, folder))


def run(argv: list[str], folder: str) -> int:
    """Run `python -m distill <argv>` in this process, output in <folder>/log.txt; return its exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # the log shall hold the traceback
    with _output_to(RunFolder(folder).log):
        faulthandler.enable(2)
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}  process {os.getpid()} on {socket.gethostname()}")
        print(f"--- python -m distill {shlex.join(argv)}", flush=True)
        from distill.cli import main as cli

        sys.argv = sys.argv[:1]
        return cli.main(argv)


def run_in(argv: list[str], folder: str, working_folder: str) -> int:
    """`run` in a process that others started, as Ray's workers, with the working folder of the launch."""
    os.chdir(working_folder)
    return run(argv, folder)


@dataclass
class Task:
    """A job to be pickled, run elsewhere, and handed in again after a preemption (submitit's protocol).

    terms: under which it was handed in, to be compared with those of another launch.
    """

    argv: list[str]
    folder: str
    terms: str = ""

    def is_like(self, other: Task) -> bool:
        """Whether another task of the same run was handed in with this command and under these terms."""
        return (self.argv, self.terms) == (other.argv, other.terms)

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
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with _opened(path) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            shown: Any = SafeStream(file)  # what a full disk refuses is not in the log, and no end of the run
            with redirect_stdout(shown), redirect_stderr(shown):  # a worker of Ray's has streams of its own
                yield
                shown.flush()
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)


def _opened(path: Path) -> TextIO:
    """The log, or nowhere on a disk that is full. Raises OSError for what stays in the way."""
    how: dict[str, Any] = {"buffering": 1, "encoding": "utf-8", "errors": "backslashreplace"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a", **how)
    except OSError as error:
        if error.errno not in PASSING:
            raise
        return open(os.devnull, "a", **how)
