"""The GPU's tests within a time limit, and one page of what failed: `scripts/gpu/check.py --limit 110 --out OUT`.

Results are written as they come, so that a run that is cut off leaves what it saw: OUT/tests.jsonl has a line a
test, OUT/failures.md for each failure the test, the error and the first frame of ours. Without a GPU this is a
rehearsal: the same tests on the CPU, with a graph that keeps a CUDA graph's rules (tests/replay.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Reports:
    """Writes each test's outcome when it is known."""

    def __init__(self, out: Path) -> None:
        self.rows, self.page, self.counts = out / "tests.jsonl", out / "failures.md", dict[str, int]()
        self.rows.write_text("")
        self.page.write_text("# What failed\n")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        if report.failed:
            row |= {"error": error_of(report.longreprtext), "frame": frame_of(report.longreprtext)}
            with self.page.open("a") as page:
                page.write(f"\n- `{row['test']}`\n  {row['error']}\n  at {row['frame']}\n")
        with self.rows.open("a") as rows:
            rows.write(json.dumps(row) + "\n")


def error_of(text: str) -> str:
    """The first line that says what went wrong."""
    found = re.search(r"^E\s+(.*)$", text, re.MULTILINE)
    return (found.group(1) if found else text.strip().splitlines()[-1] if text.strip() else "no text")[:400]


def frame_of(text: str) -> str:
    """The innermost place of ours in a traceback: distill/ before tests/."""
    places = re.findall(r"^((?:distill|tests)/\S+\.py:\d+)", text, re.MULTILINE)
    ours = [place for place in places if place.startswith("distill/")]
    return (ours or places or ["unknown"])[-1]


def main() -> int:
    """Run the tests; the exit code is pytest's, or 124 where the limit ended them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=110, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--workers", type=int, default=8, help="processes, which share the GPU")
    parser.add_argument("pytest", nargs="*", help="further words for pytest, such as -k crd, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    os.environ.setdefault("DISTILL_REHEARSAL", "1")
    reports, started = Reports(args.out.resolve()), time.monotonic()

    def cut() -> None:  # in a thread: SIGALRM is pytest-timeout's
        print(f"cut off after {args.limit} s: {reports.counts}", flush=True)
        os.killpg(0, signal.SIGKILL)

    os.setpgid(0, 0)
    timer = threading.Timer(args.limit, cut)
    timer.daemon = True
    timer.start()
    words = ["tests/test_gpu.py", "-q", "--tb=short", "-p", "no:cacheprovider", *args.pytest]
    code = pytest.main([*words, *(["-n", str(args.workers)] if args.workers > 1 else [])], plugins=[reports])
    print(f"{reports.counts} in {time.monotonic() - started:.0f} s; {reports.page}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
