"""One run of several processes: killed, one of them killed, stopped; then it ends with the bits of a whole run."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from distill import errors
from scripts.faults.forked import Outcome, forked
from scripts.faults.keys import command
from scripts.faults.ledger import Try
from scripts.faults.shapes import SMALL, difference, fingerprint, litter

ROOM = Path(__file__).resolve().parents[2]
RUNS = {"crd": ("method=crd",), "dot": ("method=dot", "schedule.clip_grad=1.0")}  # teacher first
ROUNDS = 4
HANGS = 300.0  # seconds after which processes that lost one of them count as hanging
TORCHRUN = 6  # one try of so many starts torchrun itself, where each process imports torch for itself


class Several:
    """Two and three processes over gloo in turn."""

    name = "several"

    def __init__(self, folder: Path) -> None:
        self.whole: dict[Any, tuple[float, dict[str, Any]]] = {}

    def attempt(self, number: int, place: Path) -> Try:
        """Interrupt a run ROUNDS times, let it end, and compare it with one that was left alone."""
        chance = random.Random(f"several {number}")
        real = number % TORCHRUN == TORCHRUN - 1
        name, count = chance.choice(list(RUNS)), 2 if real else 2 + number % 2
        start = _torchrun if real else _together
        argv = [*SMALL, *RUNS[name], f"output={place}/out"]
        seconds, whole = self._left_alone(name, count, place)
        seconds += 12.0 if real else 0.0  # what it imports
        interrupted, wrong = 0, ""
        for _ in range(ROUNDS):
            how = chance.choice(("kill", "kill one", "TERM", "TERM one"))
            last = start(argv, count, place, chance.uniform(0.1, 1.05 * seconds), how)
            interrupted += last.code != 0
            wrong = wrong or _wrong(last, how, real)
        last = start(argv, count, place)
        wrong = wrong or (f"then exit code {last.code}: {last.said[-300:]}" if last.code else "")
        wrong = wrong or difference(whole, fingerprint(place / "out")) or ", ".join(litter(place / "out"))
        what = f"{name}, {count} processes{', torchrun' if real else ''}"
        counts = {"interrupted": interrupted, "by torchrun": int(real), "bit-equal": int(not wrong)}
        return Try(self.name, number, what, not wrong, wrong or "equal", shlex.join(["distill", *argv]), counts)

    def _left_alone(self, name: str, count: int, place: Path) -> tuple[float, dict[str, Any]]:
        if (name, count) not in self.whole:
            output = place / "whole"
            ended = _together([*SMALL, *RUNS[name], f"output={output}"], count, place)
            if ended.code:
                raise RuntimeError(f"{name} ends with {ended.code} of itself: {ended.said[-2000:]}")
            self.whole[name, count] = ended.seconds, fingerprint(output)
            shutil.rmtree(output)
        return self.whole[name, count]


def _wrong(ended: Outcome, how: str, real: bool) -> str:
    """What is wrong with how an interrupted run ended; empty where nothing is."""
    if ended.hung:
        return f"{how}: it hangs: {ended.said[-300:]}"
    if how == "kill" or ended.code == 0:
        return ""
    if not real and how.startswith("TERM") and ended.code != 75:
        return f"{how}: exit code {ended.code}: {ended.said[-500:]}"
    if "Traceback" in ended.said and not real:
        return f"{how}: a traceback: {ended.said[-500:]}"
    return ""


def _together(argv: list[str], count: int, place: Path, after: float = 0.0, how: str = "") -> Outcome:
    """Processes forked from this one, as torchrun starts them: when one fails the others are told to stop."""
    return forked(lambda: _watched(argv, count, place, after, how), place, longest=after + HANGS)


def _watched(argv: list[str], count: int, place: Path, after: float, how: str) -> int:
    """Start the processes, interrupt them, and see how they end: 0, 75, or what the worst of them ends with."""
    fork, port = get_context("fork"), _free_port()
    workers = [fork.Process(target=_work, args=(argv, rank, count, port, place)) for rank in range(count)]
    for worker in workers:
        worker.start()
    due, told = time.monotonic() + after if how else float("inf"), False
    while any(worker.is_alive() for worker in workers):
        if time.monotonic() > due:
            due = float("inf")
            _send([int(worker.pid or 0) for worker in workers if worker.is_alive()], how)
        if not told and any(worker.exitcode for worker in workers):
            told = True
            for worker in workers:
                worker.terminate()
        time.sleep(0.01)
    codes = [abs(worker.exitcode or 0) for worker in workers]
    return next((code for code in codes if code not in (errors.DONE, errors.STOPPED)), max(codes))


def _work(argv: list[str], rank: int, count: int, port: int, place: Path) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({key: str(value) for key, value in own.items()})
    sys.exit(command(argv, place))


def _torchrun(argv: list[str], count: int, place: Path, after: float = 0.0, how: str = "") -> Outcome:
    """torchrun itself, which gives its processes groups of their own."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "distill"]
    began, said, hung = time.monotonic(), place / "torchrun.txt", False
    with open(said, "wb") as file:
        started = subprocess.Popen([sys.executable, *launch, *argv], stdout=file, stderr=subprocess.STDOUT, cwd=place,
                                   env=os.environ | {"PYTHONPATH": str(ROOM)})  # fmt: skip
    for wait, sent in ((after, how), (3 * HANGS, "kill")):
        try:
            started.wait(wait if sent else 0)
            break
        except subprocess.TimeoutExpired:
            hung = wait > after
            _interrupt(started.pid, sent)
    started.wait()
    return Outcome(started.returncode, said.read_text(errors="replace"), time.monotonic() - began, hung)


def _interrupt(torchrun: int, how: str) -> None:
    """TERM goes to torchrun, as from a shell or from Slurm; what is killed are its processes, with it or one alone."""
    workers = [int(pid) for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()]
    _send({"kill": [torchrun, *workers], "TERM": [torchrun], "": []}.get(how, workers), how)


def _send(pids: list[int], how: str) -> None:
    """Kill processes or ask them to stop: all of them, or the last."""
    for pid in pids[-1:] if how.endswith("one") else pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if how.startswith("TERM") else signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
