"""The notebook's own cells, run in this process: a kernel of Jupyter's costs more CPU than what it would run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "scripts/notebooks/own_folder_in_ten_minutes.ipynb"
SHORTER = {  # fewer epochs, and the numbers that do not depend on the machine
    "schedule.epochs=8": "schedule.epochs=2", "milestones=[6]": "milestones=[1]",
    "compile=false": "compile=false precision=fp32 threads=1", "rows[:500]": "rows[:300]",
}  # fmt: skip


def cells() -> list[str]:
    """The notebook's code."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_goes_from_a_folder_of_images_to_a_net_that_is_as_good_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in cells():
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        exec(compile(code, NOTEBOOK.name, "exec"), names)
    said = capsys.readouterr().out
    outside, recorded = re.search(r"outside ([\d.]+) %, recorded ([\d.]+) %", said).groups()
    assert outside == recorded
    assert said.count("photos/val/seven/") == len(list(Path("photos/val/seven").iterdir())) > 0
    assert Path("shipped/model.safetensors").exists() and "photos" in Path("shipped/README.md").read_text()


def test_the_notebook_was_run_from_top_to_bottom() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    counts = [cell["execution_count"] for cell in content["cells"] if cell["cell_type"] == "code"]
    assert content["nbformat"] == 4 and counts == list(range(1, len(counts) + 1))
