"""The benches' own parts: what they time, and what is left of one that is cut off."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield
    for name in [name for name in sys.modules if name.startswith("bench")]:
        del sys.modules[name]


def test_what_was_measured_before_a_bench_is_cut_off_is_kept(scripts: None, tmp_path: Path) -> None:
    import bench

    args = argparse.Namespace(rounds=3, steps=2, teacher="a", student="b", device="cpu", out=tmp_path)
    seen: list[int] = []

    def keep(seconds: dict[str, list[float]]) -> None:
        bench.write_json(bench.path_of(args), {"seconds": seconds})
        seen.append(len(json.loads((tmp_path / "a-b-cpu.json").read_text())["seconds"]["loop"]))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.measure({"loop": lambda steps: None}, args, torch.device("cpu"), keep)
    assert seen == [1, 2]


def test_the_loops_that_are_timed_take_steps(scripts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_loops
    from bench_table import Steps

    made = bench_loops.random_data
    monkeypatch.setattr(bench_loops, "random_data", lambda device: made(device, 256))
    monkeypatch.setattr("bench_table.random_data", lambda device: made(device, 256))
    monkeypatch.setattr(bench_loops.config, "conf_dir", lambda: ROOT / "conf")
    args: Any = argparse.Namespace(teacher="resnet8", student="resnet8", batch=8, precision="fp32", compile="false",
                                   compiling=False, methods=["kd"])  # fmt: skip
    device = torch.device("cpu")
    data = bench_loops.random_data(device)
    kd = bench_loops.own(args, device, data, "kd")
    fits = [bench_loops.cached(kd, data, 2, half=False), bench_loops.own(args, device, data, "none")]
    bench_loops.stepping(fits)(2)
    assert [fit.at.total for fit in fits] == [2, 2]
    assert fits[0].method.teacher_forward.hit_rate() == 1.0
    cost = Steps(args, device).cost(steps=3, rounds=1)
    assert cost["cpu"] > 0 and cost["wall"] > 0


def test_each_precision_of_a_cpu_is_kept_once_it_is_measured(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind was kept whole or not at all: of `--kinds native` nothing was left by what cut it off."""
    import bench_cpu

    asked: list[str] = []

    def child(words: list[str], **_: Any) -> Any:
        asked.append(words[-1])
        if len(asked) == 2:
            raise KeyboardInterrupt
        found = {"machine": {}, "threads": 1, words[-1]: {"student_ms": 2.0}}
        return argparse.Namespace(returncode=0, stdout=f"a warning\n{json.dumps(found)}\n")

    monkeypatch.setattr(bench_cpu.subprocess, "run", child)
    monkeypatch.setattr(sys, "argv", ["bench_cpu.py", "--kinds", "native", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        bench_cpu.main()
    (kept,) = tmp_path.glob("cpu-*.json")
    assert asked == ["fp32", "bf16"] and json.loads(kept.read_text())["native"]["fp32"] == {"student_ms": 2.0}


def test_each_folder_of_images_is_kept_once_it_is_measured(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_folder

    measured = iter([{"timm's loader": {"images_per_second": 1.0, "to_timm": 1.0}}])
    monkeypatch.setattr(bench_folder, "make", lambda *_: None)
    monkeypatch.setattr(bench_folder, "measure", lambda *_: next(measured))
    monkeypatch.setattr(sys, "argv", ["bench_folder.py", "--out", str(tmp_path)])
    with pytest.raises(StopIteration):
        bench_folder.main()
    (kept,) = tmp_path.glob("folder-*.json")
    assert len(json.loads(kept.read_text())["rows"]) == 1
