"""Golden losses: three steps of every method on the tiny images, as they were when they were last looked at.

A change that is not meant to change numbers leaves them alone. Where one is meant to, `python -m tests.test_golden
[method ...]` writes them anew, and the commit says why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny

FILE = Path(__file__).with_name("golden.json")


def run_steps(name: str, folder: Path) -> list[dict[str, float]]:
    """Return the losses of each update of the last phase in its first three steps, trained by the loop itself."""
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method(name, data), data, folder)
    fit.phases = fit.phases[-1:]
    seen: list[dict[str, float]] = []
    for phase in fit.phases:
        for update in phase.updates:
            update.loss = _noting(update.name, update.loss, seen)
    for _, _ in zip(range(3), fit.steps(), strict=False):
        pass
    return seen


def _noting(name, loss, seen):
    def wrapped(batch):
        values = loss(batch)
        seen.append({f"{name}/{key}": float(value.detach()) for key, value in values.items()})
        return values

    return wrapped


@pytest.mark.parametrize("name", tiny.METHODS)
def test_losses_are_what_they_were(name: str, tmp_path: Path) -> None:
    golden = json.loads(FILE.read_text())
    assert name in golden, f"a new method: write its losses with `python -m tests.test_golden {name}`"
    now = run_steps(name, tmp_path)
    assert len(now) == len(golden[name])
    for step, (values, expected) in enumerate(zip(now, golden[name], strict=True)):
        assert values == pytest.approx(expected, rel=2e-3, abs=1e-5), f"update {step}"


def main(names: list[str]) -> None:
    import tempfile

    torch.set_num_threads(1)
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in names or tiny.METHODS:
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = run_steps(name, Path(folder))
    known = {name: golden[name] for name in sorted(golden) if name in tiny.METHODS}
    FILE.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
