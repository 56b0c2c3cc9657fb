"""What travels to a GPU machine: halves of CIFAR-100 come out as they went in, and too much is told."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "gpu"))
import bundle  # noqa: E402


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CIFAR-100 of 250 training and 30 test images, of which the first half has 150."""
    monkeypatch.setattr(bundle, "PARTS", {"0": [("train", 0, 150)], "1": [("train", 150, 250), ("test", 0, 30)]})
    monkeypatch.setattr(bundle, "wheels", lambda out: None)
    monkeypatch.setattr(bundle, "checkout_size", lambda: 60 << 20)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for part, count in (("train", 250), ("test", 30)):
        content = {"data": draw.integers(0, 256, (count, 3072), np.uint8)}
        for name, top in (("fine_labels", 100), ("coarse_labels", 20)):
            content[name] = draw.integers(0, top, count).tolist()
        (folder / part).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {k}" for k in range(100)]}))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bundle.py", *map(str, words)])
    return bundle.main()


def test_two_halves_make_the_data_set(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "there"
    for half in ("0", "1"):
        out = tmp_path / f"bundle{half}"
        assert run(monkeypatch, out, "--cifar100", source, "--half", half) == 0
        assert run(monkeypatch, "--unpack", out, data) == 0
        assert (data / "cifar-100-python").exists() == (half == "1")
    for part in ("train", "test", "meta"):
        before, after = (
            pickle.loads((root / "cifar-100-python" / part).read_bytes()) for root in (source, data)
        )
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before)


def test_what_is_too_large_to_travel_with_the_checkout_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "out", "--cifar100", source, "--half", "0", "--limit", 60.1) == 1
    assert "git sparse-checkout set" in capsys.readouterr().out
    if (bundle.ROOT / ".git").exists():
        monkeypatch.undo()
        assert bundle.checkout_size() > sum(path.stat().st_size for path in (bundle.ROOT / "distill").rglob("*.py"))
