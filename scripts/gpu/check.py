"""The GPU's tests within a time limit, and one page of what failed: `scripts/gpu/check.py --limit 110 --out OUT`.

Results are written as they come, so that a run that is cut off leaves what it saw: OUT/tests.jsonl has a line a
test, OUT/failures.md for each failure the test, the error and the first frame of ours, then what ran at the limit.
The tests run in a process of their own, which is ended with its workers even where a call to the driver hangs. Without
a GPU this is a rehearsal: the same tests on the CPU, with a graph and streams that keep CUDA's rules (tests/replay.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CUT = 124  # exit code, as of timeout(1)


class Reports:
    """Writes each test's outcome when it is known."""

    def __init__(self, out: Path) -> None:
        self.rows, self.page, self.running = out / "tests.jsonl", out / "failures.md", out / "running.json"
        self._running: dict[str, float] = {}
        self.rows.write_text("")
        self.page.write_text("# What failed\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._note(nodeid, time.time())

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._note(nodeid, None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self._write(report, round(report.duration, 2))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:  # nothing of that file is run
            self._write(report, 0.0)

    def _write(self, report: Any, seconds: float) -> None:
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": seconds}
        if report.failed:
            row |= told(report.longreprtext)
            with self.page.open("a") as page:
                page.write(f"\n- `{row['test']}`\n  {row['error']}\n  at {row['frame']}\n")
        with self.rows.open("a") as rows:
            rows.write(json.dumps(row) + "\n")

    def _note(self, test: str, began: float | None) -> None:
        self._running.pop(test, None)
        if began is not None:
            self._running[test] = began
        self.running.write_text(json.dumps(self._running))


def told(text: str) -> dict[str, str]:
    """The error of a traceback, and the frame of ours that is nearest to it: in distill/, else in tests/.

    Of errors that led to others, the first that came by a line of ours.
    """
    parts = re.split(r"^(?:During handling of|The above exception was).*$", text, flags=re.MULTILINE)
    for ours in ("distill/", "tests/"):
        for part in parts:
            places = re.findall(rf"^({ours}\S+\.py:\d+)", part, re.MULTILINE)
            if places:
                return {"error": first_of(part), "frame": places[-1]}
    return {"error": first_of(text), "frame": "none of ours"}


def first_of(text: str) -> str:
    """The first line that says what went wrong."""
    found = re.search(r"^E\s+(.*)$", text, re.MULTILINE)
    return (found.group(1) if found else text.strip().splitlines()[-1] if text.strip() else "no text")[:400]


def inside(args: argparse.Namespace) -> int:
    """Run the tests in this process; the exit code is pytest's."""
    os.chdir(ROOT)
    words = [args.tests, "-q", "--tb=short", "-p", "no:cacheprovider", *args.pytest]
    many = ["-n", str(args.workers)] if args.workers > 1 else []
    return int(pytest.main([*words, *many], plugins=[Reports(args.out)]))


def watched(args: argparse.Namespace) -> int:
    """Run the tests in another process, which ends with this one, and at the limit."""
    environment = {"DISTILL_REHEARSAL": "1"} | os.environ
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(CUT))
    tests = subprocess.Popen([sys.executable, __file__, "--inside", *sys.argv[1:]], env=environment,
                             start_new_session=True)  # fmt: skip
    try:
        return tests.wait(args.limit)
    except BaseException as error:
        os.killpg(tests.pid, signal.SIGKILL)
        tests.wait()
        cut_off(args.out, args.limit)
        if isinstance(error, subprocess.TimeoutExpired):
            return CUT
        raise


def cut_off(out: Path, limit: float) -> None:
    """Add to the page what still ran."""
    try:
        running = json.loads((out / "running.json").read_text())
    except (OSError, ValueError):  # nothing had begun, or it was being written
        running = {}
    with (out / "failures.md").open("a") as page:
        page.write(f"\nCut off after {limit:g} s" + (", while these ran:\n\n" if running else ".\n"))
        for test, began in running.items():
            page.write(f"- `{test}` for {time.time() - began:.0f} s\n")


def main() -> int:
    """Run the tests; the exit code is pytest's, or 124 where the limit ended them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=110, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--workers", type=int, default=8, help="processes, which share the GPU")
    parser.add_argument("--tests", default="tests/test_gpu.py")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("pytest", nargs="*", help="further words for pytest, such as -k crd, after --")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.inside:
        return inside(args)
    started, code = time.monotonic(), watched(args)
    (args.out / "running.json").unlink(missing_ok=True)
    counts = Counter(json.loads(line)["outcome"] for line in (args.out / "tests.jsonl").read_text().splitlines())
    ended = "cut off: " if code == CUT else ""
    print(f"{ended}{dict(counts)} in {time.monotonic() - started:.0f} s; {args.out / 'failures.md'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
