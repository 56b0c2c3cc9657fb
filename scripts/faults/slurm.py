"""Preempted jobs of the Slurm launcher, on a stand-in for Slurm: requeued, and done with the bits of a whole run."""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from scripts.faults.forked import forked
from scripts.faults.keys import command
from scripts.faults.ledger import Try
from scripts.faults.shapes import SMALL, difference, fingerprint, litter

ROOM = Path(__file__).resolve().parents[2]
RUN = (*SMALL, "method=kd", "schedule.epochs=25")  # its teacher is trained first
JOB = "1001"  # the first that the stand-in gives
PREEMPTIONS = 3  # one of them mostly in the teacher
LONGEST = 600.0


class Slurm:
    """One job, preempted at random moments, those of its teacher's training among them."""

    name = "slurm"

    def __init__(self, folder: Path) -> None:
        self.last = None if find_spec("submitit") and find_spec("hydra_plugins.hydra_submitit_launcher") else 0

    def attempt(self, number: int, place: Path) -> Try:
        """Launch, send what Slurm sends before it takes a machine away, and wait for the launcher."""
        chance = random.Random(f"slurm {number}")
        output, state = place / "out", place / "slurm"
        state.mkdir()
        path = f"{ROOM / 'tests' / 'slurm'}:{os.environ['PATH']}"
        env = os.environ | {"PYTHONPATH": str(ROOM), "PATH": path, "FAKE_SLURM": str(state)}
        asked = [f"hydra.launcher.{key}" for key in ("gpus_per_node=null", "timeout_min=60", "signal_delay_s=30")]
        argv = ["-m", "hydra/launcher=slurm", *asked, *RUN, f"output={output}"]
        with open(place / "said.txt", "wb") as file:
            words = [sys.executable, "-m", "distill", *argv]
            launched = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=place, env=env)
        sent = sum(_preempt(output, env, launched, chance) for _ in range(PREEMPTIONS))
        launched.wait(timeout=LONGEST)
        said = (place / "said.txt").read_text(errors="replace")
        wrong = f"exit code {launched.returncode}: {said[-300:]}" if launched.returncode else ""
        forked(lambda: command([*RUN, f"output={place}/whole"], place), place / "alone")
        whole = fingerprint(place / "whole")
        wrong = wrong or difference(whole, fingerprint(output)) or ", ".join(litter(output))
        again = sum(int(path.read_text()) for path in state.rglob("restarts"))
        counts = {"signals": sent, "requeued": again, "bit-equal": int(not wrong)}
        said = wrong or "equal"
        return Try(self.name, number, "own teacher", not wrong, said, shlex.join(["distill", *argv]), counts)


def _preempt(output: Path, env: dict[str, str], launched: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """Wait for the job to begin once more, and a moment, and send USR2; whether it was still there."""
    before = _begun(output)
    end = time.monotonic() + LONGEST
    while launched.poll() is None and time.monotonic() < end:
        if _begun(output) > before and any(output.rglob("*.ckpt")):  # of its teacher, at first
            break
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 0.3))
    if launched.poll() is not None:
        return False
    return subprocess.run(["scancel", "--signal", "USR2", JOB], env=env, capture_output=True).returncode == 0


def _begun(output: Path) -> int:
    """How often the job has begun, as its log says."""
    return sum(path.read_text(errors="replace").count("--- python -m distill") for path in output.rglob("log.txt"))
