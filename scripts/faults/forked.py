"""Tries in processes forked from this one, which has imported all that a run imports: they cost little."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 300.0  # seconds of a try before it counts as hanging


@dataclass(frozen=True)
class Outcome:
    """How a forked try ended: its exit code, or the signal that killed it with a minus, and what it printed."""

    code: int
    said: str
    seconds: float
    hung: bool = False

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def sentence(self) -> str:
        """What the program said last in its own name."""
        return next((line for line in reversed(self.said.splitlines()) if line.startswith("distill: ")), "")


def preload() -> None:
    """Import what runs import, torch's largest parts too, which optimisers would import each for itself."""
    import sklearn.datasets  # noqa: F401
    import timm  # noqa: F401
    import torch
    import torch._dynamo  # noqa: F401

    import distill.cli.main
    import distill.methods  # noqa: F401
    import distill.run  # noqa: F401
    from distill.sweep import add_launchers

    add_launchers()  # before anything is composed, which looks for plugins once
    torch.set_num_threads(1)


def forked(
    work: Callable[[], Any], place: Path, *, signals: tuple[tuple[float, int], ...] = (), longest: float = LONGEST
) -> Outcome:
    """Do `work` in a process of its own group, its output in a file of `place`.

    signals: (seconds after the start, number) of each signal that the whole group gets.
    """
    place.mkdir(parents=True, exist_ok=True)
    said = place / "said.txt"
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(work, said)
    hung = not _watched(pid, began, signals, longest)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, said.read_text(errors="replace") if said.exists() else "", time.monotonic() - began, hung)


def _child(work: Callable[[], Any], said: Path) -> None:
    code = 1
    try:
        os.setsid()
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(handle, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = int(work() or 0)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watched(pid: int, began: float, signals: tuple[tuple[float, int], ...], longest: float) -> bool:
    """Send the signals and wait for the end; False where it had to be killed for hanging."""
    ended = os.pidfd_open(pid)
    try:
        for after, number in (*signals, (longest, signal.SIGKILL)):
            left = max(began + after - time.monotonic(), 0)
            if select.select([ended], [], [], left)[0]:
                return True
            _send(pid, number)
        return False
    finally:
        os.close(ended)


def _send(pid: int, number: int) -> None:
    for send in (os.killpg, os.kill):  # it leads a group as soon as it runs
        try:
            return send(pid, number)
        except ProcessLookupError:
            continue
