"""The process that tests/program.py forks programs from: `python -m tests.program_server SOCKET MODULE...`."""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from multiprocessing import util
from typing import Any

from distill.end import end
from tests import compositions


def main() -> None:
    """Import the modules, serve until the tests' process ends; in a child, be the program that was asked for."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    compositions.compose_once()
    compositions.composed("method=kd")  # Hydra's plugins and grammar, and the files that every command reads
    gc.freeze()  # nor do the children's collectors look at it
    become(**serve(control))


def serve(control: socket.socket) -> dict[str, Any]:
    """Fork a child for each request; returns in the children alone, with the request."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the tests
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            collect(running)
        if control in ready:
            asked, files, _, _ = socket.recv_fds(control, 1, 5)
            if not asked:  # the tests' process has ended, or was
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            request, ends, *streams = files
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                control.detach()  # `child` closes it; when Python ends its number may be another's, gloo's for one
                return child(request, streams)
            running[pid] = ends
            for file in (request, *streams):
                os.close(file)
            control.send(str(pid).encode())


def collect(running: dict[int, int]) -> None:
    """Tell whoever waits for a process that it has ended."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            ends = running.pop(pid)
            os.write(ends, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(ends)


def child(request: int, streams: list[int]) -> dict[str, Any]:
    """In a child: the request; signals and files as a new process has them."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(request, encoding="utf-8", closefd=False) as file:
        asked: dict[str, Any] = json.load(file)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 4096)
    return asked


def become(argv: list[str], cwd: str, env: dict[str, str], new_session: bool) -> None:
    """Be `python -m <argv>`."""
    if new_session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    ways = ((0, "r", -1), (1, "w", -1), (2, "w", 1))
    streams = [open(number, mode, buffering, closefd=False) for number, mode, buffering in ways]  # noqa: SIM115
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = streams
    given = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [cwd, *(path for path in given if path not in sys.path)]
    atexit.register(gc.unfreeze)  # libraries that count what is never freed at the end would tell of it
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules and "-m" in argv:
        util.spawnv_passfds = spare()
    sys.argv = ["-m", *argv[1:]]
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    end(0)


def spare() -> Any:
    """Fork a process that becomes multiprocessing's server of forks, should the program (its local launcher) start one.

    Returns what does so in place of multiprocessing.util.spawnv_passfds.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        become_fork_server(theirs)
    theirs.close()
    start = util.spawnv_passfds

    def spawned(path: bytes, args: list[str], files: list[int]) -> int:
        if "multiprocessing.forkserver" not in args[-1] or ours.fileno() < 0:
            return start(path, args, files)
        asked = {"code": args[-1], "files": list(files), "env": dict(os.environ), "cwd": os.getcwd()}
        socket.send_fds(ours, [json.dumps(asked).encode()], files)
        ours.close()
        return pid

    return spawned


def become_fork_server(control: socket.socket) -> None:
    """Wait for the word to be it, or for the program's end."""
    asked, files, _, _ = socket.recv_fds(control, 1 << 16, 16)
    if not asked:
        os._exit(0)
    told = json.loads(asked)
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 512) for file in files]
    os.closerange(3, 512)
    for file, number in zip(high, told["files"], strict=True):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(told["env"])
    os.chdir(told["cwd"])
    exec(told["code"], {"__name__": "__main__"})
    os._exit(0)


if __name__ == "__main__":
    main()
