"""How the program ends: all that an interpreter does at its end, but for taking apart what was imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import atexit, os, sys, threading, time
from distill.end import end

class Kept:
    def __del__(self, write=os.write):
        write(1, b"taken apart")

kept = Kept()
atexit.register(lambda: print("registered"))
threading.Thread(target=lambda: (time.sleep(0.3), print("waited for"))).start()
sys.stdout.write("shown ")
end(3)
"""


def python(*words: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **how)  # type: ignore[call-overload,no-any-return]


def test_threads_and_what_is_registered_have_their_say_and_nothing_is_taken_apart() -> None:
    done = python("-c", CODE)
    assert (done.returncode, done.stdout, done.stderr) == (3, "shown waited for\nregistered\n", "")


@pytest.mark.parametrize("watch", ["setprofile", "settrace"])
def test_a_profiler_or_a_debugger_sees_the_end(watch: str) -> None:
    done = python("-c", f"import sys; sys.{watch}(lambda *_: None)" + CODE)
    assert done.returncode == 3 and done.stdout.endswith("registered\ntaken apart")


def test_a_profile_of_the_program_is_written(tmp_path: Path) -> None:
    python("-m", "cProfile", "-o", str(tmp_path / "profile"), "-m", "distill", "status", str(tmp_path / "none"))
    assert (tmp_path / "profile").stat().st_size > 1000


def test_a_closed_pipe_is_as_in_any_program() -> None:
    code = 'import os, sys\nfrom distill.end import end\nos.close(1)\nsys.stdout.write("lost")\nend(0)'
    done = python("-c", code, env=os.environ | {"PYTHONUNBUFFERED": ""})
    assert done.returncode == 120 and "Exception ignored" in done.stderr
