"""The file in which the jobs of one command note why they failed; the command reads it at its end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "DISTILL_FAILURES"  # the environment variable that names the file


def note(code: int, what: str, why: str) -> None:
    """Add one failure: the exit code, the job's overrides, and the reason in a sentence."""
    with open(os.environ[VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps({"code": code, "what": what, "why": why}) + "\n")


def read(path: str | Path) -> list[dict[str, Any]]:
    """All failures that were noted, in order."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
