"""Slurm's queue as squeue tells it: which jobs of a sweep are over, and which an earlier launch has left in it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill.file_lock import file_lock
from distill.files import best_effort, read_json, write_json

log = logging.getLogger(__name__)
SUBMITTED = ".submitit"  # submitit's folder, in the output folder
ELSEWHERE = "elsewhere.json"  # in it: those of launches that name another
USUAL_LARGEST = 1001  # jobs of an array, where slurm.conf does not say otherwise (MaxArraySize)
GONE = 60.0  # seconds for which a job is out of the queue without a result before it is over: file systems are slow

_LOCK = ".lock"  # in submitit's folder
_OF_JOB, _OF_CLUSTER = ("SLURM_", "SLURMD_", "SRUN_"), ("SLURM_CONF", "SLURM_CLUSTERS")


def in_queue() -> set[str]:
    """The ids of this user's jobs that wait, run or are about to end: 7, of an array 7_0, 7_1 ...

    Raises ValueError where squeue does not tell.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}  # would narrow it
    try:
        told = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        why = told.stderr if told.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        raise ValueError(f"squeue does not tell which jobs are queued ({' '.join(why.split())[:200]}): try again")
    return set(told.stdout.split())


def note_folder(output: Path, folder: str) -> None:
    """Note where a launch's jobs are, for those who ask which are queued. folder: submitit's, with %j."""
    usual = output / SUBMITTED
    noted, absolute = _noted(output), os.path.abspath(folder)
    if absolute not in (os.path.abspath(usual / "%j"), *noted):
        usual.mkdir(parents=True, exist_ok=True)
        best_effort(lambda: write_json(usual / ELSEWHERE, [*noted, absolute]))


def _noted(output: Path) -> list[str]:
    found = read_json(output / SUBMITTED / ELSEWHERE)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def queued_below(output: Path) -> set[str]:
    """The runs, by `place`, whose jobs launches into this output folder have left in the queue; those of this user
    alone, for they are pickled. A squeue that does not tell is said.
    """
    found: set[str] = set()
    for folder in (str(output / SUBMITTED / "%j"), *_noted(output)):
        with suppress(OSError, ImportError):
            if shutil.which("squeue") and os.stat(os.path.dirname(folder.partition("%")[0])).st_uid == os.getuid():
                try:
                    found |= {*left_in_queue(folder)}
                except ValueError as error:
                    log.warning("%s", error)
    return found


def left_in_queue(folder: str) -> dict[str, Any]:
    """submitit's jobs that are in the queue without a result, by `place` of the run that each is for; of several the
    first that was handed in.

    folder: submitit's, with %j for a job's id. Raises ValueError as `in_queue` does.
    """
    from submitit import SlurmJob
    from submitit.core.utils import JobPaths

    found: dict[str, Any] = {}
    top = JobPaths.get_first_id_independent_folder(folder)
    if not top.is_dir() or not {*os.listdir(top)} - {_LOCK, ELSEWHERE}:
        return found
    for job_id in sorted(in_queue(), key=lambda text: [int(number) for number in re.findall(r"\d+", text)]):
        with suppress(Exception):  # of a version whose jobs cannot be read, or a folder for arrays alone
            paths = JobPaths(folder, job_id)
            if paths.submitted_pickle.exists() and not paths.result_pickle.exists():
                job: Any = SlurmJob(folder, job_id)
                found.setdefault(place(job.submission().function.folder), job)
    if found:
        SlurmJob.watcher.clear()  # what a node's failure ended may have been queued again
    return found


@contextmanager
def handing_in(folder: str) -> Iterator[None]:
    """One launch at a time looks at the queue and hands in what is not there: two at the same moment saw it empty, and
    handed each job in twice. folder: submitit's.
    """
    from submitit.core.utils import JobPaths

    top = JobPaths.get_first_id_independent_folder(folder)
    top.mkdir(parents=True, exist_ok=True)
    with file_lock(top / _LOCK):
        yield


def largest_array() -> int:
    """How many jobs this cluster takes in one array; Slurm's default where scontrol does not tell."""
    try:
        told = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    limits = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", told, re.MULTILINE)
    found = [int(number) for pair in limits for number in pair if number]
    return max(min(found, default=USUAL_LARGEST), 1)  # 0: no arrays are taken, and each job is handed in alone


def place(folder: str | Path) -> str:
    """A run's folder by whatever links it was named."""
    return os.path.realpath(folder)


@contextmanager
def outside_job() -> Iterator[None]:
    """Where a sweep is launched from an interactive job: what sbatch would hand on of that, its memory per processor
    say, srun refuses beside the new job's own. What a user sets for sbatch (SBATCH_ACCOUNT ...) stays.
    """
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if name.startswith(_OF_JOB) and name not in _OF_CLUSTER] if inside else []
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


class Ends:
    """Which of submitit's jobs are over: those with a result, and those that have left the queue without one.

    Slurm's record of a job, which submitit asks, has an end for one that is queued again as well (a node failed), none
    for one that PreemptMode=CANCEL ended, and is not kept by every cluster.
    """

    def __init__(self) -> None:
        self._gone: dict[str, float] = {}  # since when, on the monotonic clock
        self._looked = time.monotonic()

    def among(self, queue: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
        """Those that are over, of all that are waited for: pairs of what each is for and submitit's job."""
        now, ids = time.monotonic(), {job.job_id for job in queue.values()}
        if now - self._looked >= GONE / 2:
            self._look(ids, now)
        left = {job_id for job_id, since in self._gone.items() if now - since >= GONE}
        over = [(key, job) for key, job in queue.items() if has_result(job) or job.job_id in left]
        if any(job.job_id in left for _, job in over):
            over[0][1].watcher.update()  # what Slurm says of them now, which is asked seldom otherwise
        return over

    def _look(self, ids: set[str], now: float) -> None:
        with suppress(ValueError):  # a controller that does not answer now
            queued = in_queue()
            self._gone = {name: self._gone.get(name, now) for name in ids - queued}
        self._looked = now


def has_result(job: Any) -> bool:
    """Whether one of submitit's jobs has left a result, be it an error."""
    folder = job.paths.folder
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)  # or a file system may answer from what it remembers, as submitit has it
    return bool(job.paths.result_pickle.exists())
