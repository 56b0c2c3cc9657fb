"""The end of a command: what an interpreter does at its end, less taking apart all that was imported."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn


def end(code: int) -> NoReturn:
    """Leave with an exit code, as multiprocessing's children do: threads are waited for, what is registered with
    atexit is called, what is shown is flushed. Modules and objects stay as they are: to free those of torch and timm
    one by one takes a fifth of a short run.

    Under a profiler, a debugger or `python -i`, which have something to do afterwards, as any other program.
    """
    if not _watched():
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        if _flushed():
            os._exit(code)
    sys.exit(code)


def _flushed() -> bool:
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except (OSError, ValueError):  # a closed pipe, a full disk
        return False
    return True


def _watched() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # of Python 3.12, which has six places for tools
    tools = [monitoring.get_tool(place) for place in range(6)] if monitoring else []
    return bool(sys.flags.inspect or sys.getprofile() or sys.gettrace() or any(tools))
