"""A cluster of one machine for tests: what sbatch, srun, scontrol, scancel, squeue and sacct in this folder
share.

Its state is the folder $FAKE_SLURM: a folder for each job with its script, pid, state and number of restarts.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def jobs(name: str) -> list[Path]:
    """The folders of a job, or of all jobs of an array."""
    found = [STATE / name, *STATE.glob(f"{name}_*")]
    return sorted(path for path in found if path.is_dir())


def expand(pattern: str) -> str:
    """A file name with Slurm's %A, %a, %j and %t put in."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    values = {"%A": array, "%a": task, "%j": os.environ["SLURM_JOB_ID"], "%t": "0"}
    return re.sub("%[Aajt]", lambda match: values[match[0]], pattern)


def sbatch(script: str) -> None:
    """Start every job of a script at once, each under a process that plays the node."""
    text = Path(script).read_text()
    number = str(1001 + sum(path.is_dir() for path in STATE.iterdir()))
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    names = [f"{number}_{task}" for task in range(int(array[1]) + 1)] if array else [number]
    for name in names:
        (STATE / name).mkdir()
        (STATE / name / "script").write_text(text)
        (STATE / name / "state").write_text("PENDING")
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen([sys.executable, __file__, "node", name], start_new_session=True, **nothing)
    print(f"Submitted batch job {number}")


def node(name: str) -> None:
    """Run a job, and again as often as it is requeued."""
    folder, (number, _, task) = STATE / name, name.partition("_")
    os.environ |= {"SLURM_JOB_ID": str(int(number) + 100 * int(task or 0)), "SLURM_JOB_NODELIST": "here"}
    os.environ |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task} if task else {}
    output = re.search(r"^#SBATCH --output=(\S+)", (folder / "script").read_text(), re.MULTILINE)
    path = Path(expand(output[1]) if output else os.devnull)
    path.parent.mkdir(parents=True, exist_ok=True)
    restarts, code = -1, 0
    while restarts < 0 or (folder / "requeue").exists():
        restarts += 1
        (folder / "requeue").unlink(missing_ok=True)
        (folder / "restarts").write_text(str(restarts))
        (folder / "state").write_text("RUNNING")
        with open(path, "a") as log:
            code = subprocess.call(["bash", str(folder / "script")], stdout=log, stderr=log)
    (folder / "state").write_text("FAILED" if code else "COMPLETED")


def srun(*argv: str) -> None:
    """Become the command, with the environment of a task of its own."""
    words = list(argv)
    while words[0].startswith("-"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            file = open(expand(words.pop(0)), "a")  # noqa: SIM115 (the command keeps it)
            os.dup2(file.fileno(), 1 if option == "--output" else 2)
    os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1"}
    os.environ["SLURM_JOB_NUM_NODES"] = "1"
    array = f"{os.environ.get('SLURM_ARRAY_JOB_ID', '')}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    (jobs(array) or jobs(os.environ["SLURM_JOB_ID"]))[0].joinpath("pid").write_text(str(os.getpid()))
    os.execvp(words[0], words)


def scontrol(verb: str, name: str) -> None:
    if (verb, name) == ("show", "config"):
        return print("MaxArraySize            = 1001")
    assert verb == "requeue"
    (jobs(name)[0] / "requeue").touch()


def scancel(*argv: str) -> None:
    """scancel [--signal NAME] JOB"""
    words = list(argv)
    number = signal.SIGTERM
    if "--signal" in words:
        place = words.index("--signal")
        number = signal.Signals[f"SIG{words.pop(place + 1).removeprefix('SIG')}"]
        words.pop(place)
    for job in jobs(words[0]):
        os.kill(int((job / "pid").read_text()), number)


def sacct(*argv: str) -> None:
    print("JobID|State|NodeList")
    for name in (word for before, word in zip(argv, argv[1:], strict=False) if before == "-j"):
        for job in jobs(name):
            print(f"{job.name}|{(job / 'state').read_text()}|here")


def squeue(*argv: str) -> None:
    """squeue --noheader --array --format=%i: the jobs that wait or run."""
    assert {"--noheader", "--array", "--format=%i"} <= {*argv}
    for job in sorted(path.parent for path in STATE.glob("*/state")):
        if (job / "state").read_text() in ("PENDING", "RUNNING"):
            print(job.name)


if __name__ == "__main__":
    verbs = {each.__name__: each for each in (sbatch, srun, scontrol, scancel, squeue, sacct, node)}
    verbs[sys.argv[1]](*sys.argv[2:])
