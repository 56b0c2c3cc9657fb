"""YAML files of the user's own: what is wrong with one is said with its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.cli.command import read_command
from distill.config.groups import conf_dir
from distill.config.own_files import check_file, check_folder


def bomb() -> str:
    levels = [f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    return "\n".join(["a0: &a0 [x,x,x]", *levels])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "is no text in UTF-8"),
        (b"a: b: c", "is no YAML in line 1"),
        (b"seed:\t1\n\tx: 2", "is no YAML in line [12]"),
        (b"- 1", "holds no keys and values"),
        (b"a: 1\n---\na: 2", "is no YAML in line [12]"),
        (b"teacher: &x\n  below: *x", "aliases of aliases"),
        (bomb().encode(), "aliases of aliases"),
        (b"a: " + 3000 * b"[", "is no YAML|nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_of_the_file(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    path = tmp_path / "experiment" / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} .*({why})"):
        read_command(["experiment=mine", "--config-dir", str(tmp_path), "--dry-run"])


@pytest.mark.parametrize("name", ["method/kd.yaml", "hydra/launcher/slurm.yaml", "config.yaml"])
def test_a_file_that_ours_hides_is_refused_and_a_copy_of_it_is_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((conf_dir() / name).read_bytes())
    check_folder(tmp_path)
    path.write_text("kd: 3.0\n")
    with pytest.raises(ValueError, match=f"{path} is not read, for the program has a file of that name"):
        check_folder(tmp_path)


@pytest.mark.parametrize(("name", "said"), [
    ("method/mine.yml", "method/mine.yml is not read: call it mine.yaml"),
    ("experiments/mine.yaml", "experiments is not read: call the folder experiment"),
    ("tuned/digits-mine.yaml", "mine.yaml sets keys of the whole configuration: write '# @package"),
])  # fmt: skip
def test_what_has_nearly_a_right_name_is_told(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("seed: 1\n")
    with pytest.raises(ValueError, match=said):
        check_folder(tmp_path)


def test_control_characters_are_no_values() -> None:
    for text in ("method.name=\x1b]0;x\x07", "output=\u202eb", "+tracking.project=\x00"):
        with pytest.raises(ValueError, match="holds control characters"):
            read_command([text, "--dry-run"])


def test_what_is_fine_passes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for content in ("", "# @package _global_\na: &x [1, 2]\nb: *x\nc: {d: !!str 3}\n"):
        path.write_text(content)
        check_file(path)
