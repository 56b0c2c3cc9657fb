"""A sweep of 100 jobs of which 20 are sabotaged: 80 are done, 20 are named with their reason, a relaunch runs those."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from scripts.faults.ledger import Try
from scripts.faults.shapes import SMALL

JOBS, KILLED, BLOCKED = 100, 10, 10
ROOM = Path(__file__).resolve().parents[2]


class Sweeps:
    """The real command line with the local launcher."""

    name = "sweeps"

    def __init__(self, folder: Path) -> None:
        self.jobs = JOBS

    def attempt(self, number: int, place: Path) -> Try:
        """Launch, sabotage, and launch again what is left."""
        output = place / "out"
        argv = ["-m", "hydra/launcher=local", "hydra.launcher.slots=2", f"seed=range(1,{self.jobs + 1})", *SMALL,
                "schedule.epochs=1", "method=none", f"output={output}"]  # fmt: skip
        said, code = self._sabotaged(argv, output, place)
        done = _done(output)
        lines = [json.loads(line) for line in (output / "sweep.jsonl").read_text().splitlines()]
        failed = {line["folder"]: line["why"] for line in lines if line["code"] != 0 and not line["again"]}
        for path in (output / "sabotaged").read_text().splitlines():
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
        again = _launch(argv, place, "again.txt")
        again.wait(timeout=1800)
        wrong = _wrong(said, code, done, failed, again.returncode, _done(output), self.jobs)
        counts = {"jobs": self.jobs, "sabotaged": KILLED + BLOCKED, "done": done, "relaunched": self.jobs - done}
        return Try(self.name, number, f"{self.jobs} jobs", not wrong, wrong or "as it should",
                   shlex.join(["python", "-m", "distill", *argv]), counts)  # fmt: skip

    def _sabotaged(self, argv: list[str], output: Path, place: Path) -> tuple[str, int]:
        folders = _folders(argv, output)
        blocked = folders[3 : 3 + 5 * BLOCKED : 5]
        for number, folder in enumerate(blocked):
            path = [folder, folder / "log.txt" / "x"][number % 2] if number < BLOCKED // 2 else folder / "DONE"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            if path.name == "DONE":
                (folder / "result.json").write_text('{"dataset": "digi')
        (output / "sabotaged").write_text("\n".join(map(str, blocked)))
        launched = _launch(argv, place, "said.txt")
        killer = threading.Thread(target=_kill, args=(folders[5 : 5 + 5 * KILLED : 5], launched), daemon=True)
        killer.start()
        launched.wait(timeout=3600)
        return (place / "said.txt").read_text(errors="replace"), launched.returncode


def _done(output: Path) -> int:
    """How many runs have a result that can be read."""
    from distill.run_folder import find_runs

    return sum(run.done for run in find_runs(output))


def _launch(argv: list[str], place: Path, said: str) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOM)}
    with open(place / said, "wb") as file:
        command = [sys.executable, "-m", "distill", *argv]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=place, env=env)


def _folders(argv: list[str], output: Path) -> list[Path]:
    """The folders of the runs of a sweep over seeds."""
    from hydra import compose, initialize_config_dir

    from distill import config

    config.register()
    overrides = [text for text in argv if text != "-m" and not text.startswith(("hydra", "seed="))]
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides)
    first = Path(config.identity(cfg)["folder"]).absolute()
    return [first.with_name(f"s{seed}") for seed in range(1, JOBS + 1)]


def _kill(folders: list[Path], launched: subprocess.Popen[bytes]) -> None:
    """Kill each of these runs at its first attempt and at its second."""
    killed = dict.fromkeys(folders, 0)
    while launched.poll() is None and min(killed.values()) < 2:
        for folder in folders:
            if _started(folder / "log.txt") > killed[folder]:
                killed[folder] += _kill_latest(folder / "log.txt")
        time.sleep(0.05)


def _kill_latest(log: Path) -> bool:
    """Kill the process that wrote the last head of a log; whether there was one."""
    heads = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("--- 2")]
    try:
        os.kill(int(heads[-1].split("process ")[1].split()[0]), signal.SIGKILL)
    except (ProcessLookupError, IndexError, ValueError):
        return False
    return True


def _started(log: Path) -> int:
    try:
        return log.read_text(errors="replace").count("--- python -m distill")
    except OSError:
        return 0


def _wrong(said: str, code: int, done: int, failed: dict[str, str], again: int, in_the_end: int, jobs: int) -> str:
    sabotaged = KILLED + BLOCKED
    if "Traceback" in said:
        return f"a traceback: {said[said.index('Traceback'):][:300]}"
    if (code, done, len(failed)) != (1, jobs - sabotaged, sabotaged):
        return f"exit code {code}, {done} done, {len(failed)} failed: {said[-300:]}"
    if not all(failed.values()) or not all(Path(folder).name in said for folder in failed):
        return "a failure without its reason"
    return "" if (again, in_the_end) == (0, jobs) else f"relaunched: exit code {again}, {in_the_end} done"
