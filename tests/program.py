"""`python -m distill` for tests, forked from a process that has imported everything: a start costs 0.2 s of CPU, not 3.

What runs is what a shell would start: a process of its own with its own arguments, folder, environment, streams,
signals and exit code, and it ends as the program does. Only what an interpreter reads when it starts is as it is
here, and PYTHONPATH adds to that. tests/program_server.py is the process that is forked from.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

REPO = Path(__file__).resolve().parent.parent
LIGHT = ("distill.cli.main",)  # without torch
WHOLE = ("distill.sweep.preload", "distill.record.tracker", "distill.models.macs", "torch.distributed", "timm")


@dataclass
class Program:
    """A process that was started. It has Popen's names; what it says goes to files, so that it never waits."""

    pid: int
    args: Sequence[str]
    ended: int  # a pipe that gives the exit code
    out: IO[bytes]
    err: IO[bytes]
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code if it has ended; -n: by signal n."""
        return self.wait() if self.returncode is None and select.select([self.ended], [], [], 0)[0] else self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(os.read(self.ended, 16))
            os.close(self.ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def said(self) -> tuple[str, str]:
        """Its output and its errors until now."""
        files = [stream.fileno() for stream in (self.out, self.err)]
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in files)
        return out, err

    def communicate(self) -> tuple[str, str]:
        self.wait()
        return self.said()


def start(
    *argv: str,
    module: str = "distill",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str = "",
    new_session: bool = False,
    preload: tuple[str, ...] = WHOLE,
) -> Program:
    """Start `python -m <module> <argv>`.

    env: added to the environment; text: standard input;
    new_session: lead a group of its own; preload: which modules are imported already.
    """
    request = {"argv": [module, *argv], "cwd": str(cwd or Path.cwd()), "new_session": new_session,
               "env": {**os.environ, **(env or {})}}  # fmt: skip
    ended, ends = os.pipe()
    with _file(json.dumps(request)) as asked, _file(text) as stdin:
        out, err = _file(), _file()
        streams = [stdin.fileno(), out.fileno(), err.fileno()]
        control = _server(preload)
        socket.send_fds(control, [b"+"], [asked.fileno(), ends, *streams])
        pid = int(control.recv(16))
    os.close(ends)
    return Program(pid, [module, *argv], ended, out, err)


def run(*argv: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """`start`, and wait for it."""
    program = start(*argv, **how)
    out, err = program.communicate()
    return subprocess.CompletedProcess(program.args, program.wait(), out, err)


def _file(content: str = "") -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(content.encode())
    file.seek(0)
    return file


@cache
def _server(preload: tuple[str, ...]) -> socket.socket:
    """Start the process that others are forked from; it ends when this one does."""
    ours, theirs = socket.socketpair()
    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tests.program_server", str(theirs.fileno()), *preload]
    server = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, cwd=REPO, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
    )
    theirs.close()
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours
