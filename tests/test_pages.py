"""README and the pages below it: every command composes, every link leads somewhere, every number is the table's."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from distill.cli import command, verbs
from distill.config import groups, options, plugins, register
from distill.sweep import add_launchers

REPO = Path(__file__).resolve().parent.parent
DOCS = REPO / "distill" / "docs"
PAGES = [REPO / "README.md", *sorted(DOCS.glob("*.md"))]
OWN = (DOCS / "own_data_and_models.md").read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced blocks of a language, none: commands and what they leave."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def commands() -> list[str]:
    """Every command of this program in the pages, in one line, without its comment."""
    lines = [line for page in PAGES for block in blocks(page.read_text(encoding="utf-8"))
             for line in block.replace("\\\n", " ").splitlines()]  # fmt: skip
    found = [re.sub(r"^(.*-m distill|distill)\b", "", line.split("  #")[0].split("   (")[0]).strip()
             for line in lines if re.match(r"(torchrun .*|python )-m distill|distill ", line)]  # fmt: skip
    return list(dict.fromkeys(found))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages speak of, taken from the pages themselves."""
    data, method = blocks(OWN, "yaml")
    files = {"own/dataset/birds.yaml": data, "own/method/cosine.yaml": method, "my_method.py": blocks(OWN, "python")[0]}
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "resnet56-4bfd9763.th")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(groups, "_own", [])
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(command, "check_launcher", lambda name: None)  # no cluster is here
    add_launchers()
    register()
    yield tmp_path
    sys.modules.pop("my_method", None)


def test_the_pages_have_commands() -> None:
    assert len(commands()) > 20 and {line.split()[0] for line in commands()} >= {"export", "eval", "predict", "report"}


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_pages_is_right(line: str, place: Path) -> None:
    words = shlex.split(line)
    if verbs.is_verb(words[0]):
        module, parser = import_module(verbs.VERBS[words[0]][0]), argparse.ArgumentParser(exit_on_error=False)
        module.arguments(parser)
        parser.add_argument("--config-dir")  # which every verb takes
        parser.parse_intermixed_args(words[1:])
    elif experiment := re.search(r"experiment=(\w+)", line):  # each file has a test of its own
        assert experiment[1] in options("experiment")
    else:
        assert command.read_command(words).argv


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for name, anchor in re.findall(r"\]\(([\w./]*\.md)?#([\w-]+)\)", text):
        other = (page.parent / name if name else page).read_text(encoding="utf-8")
        heads = re.findall(r"^#+ (.*)$", other, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


def test_what_a_method_is_worth_is_what_its_tables_say() -> None:
    tables = {table["id"]: table for table in _tables()}
    rows = re.findall(r"^\| (?:7 of one|6 of different) .*$", (DOCS / "which_method.md").read_text(), re.MULTILINE)
    names = ("kd", "crd+kd", "crd", "pkt", "sp", "vid", "at", "rkd", "fitnet")
    for row, name in zip(rows, ("crd_table1_same_arch", "crd_table2_diff_arch"), strict=True):
        alone = [pair["student_acc"] for pair in tables[name]["pairs"]]
        for method, said in zip(names, row.strip("| ").split(" | ")[1:], strict=True):
            gains = [ours - theirs for ours, theirs in zip(tables[name]["methods"][method], alone, strict=True)]
            assert sum(gains) / len(gains) == pytest.approx(float(said), abs=0.0051), (name, method)


def test_what_later_papers_state_beyond_kd_is_what_their_tables_say() -> None:
    """The least and the greatest of four methods' mean gains, of the pairs that CRD's table has, too."""
    tables, said = {table["id"]: table for table in _tables()}, (DOCS / "which_method.md").read_text()
    later = {"dkd": ("dkd_cifar100_same", "dkd_cifar100_diff"), "dist": ("dist_cifar100", "dist_cifar100"),
             "mlkd": ("ls_cifar100_same", "ls_cifar100_diff"),
             "reviewkd": ("norm_table1_same_arch", "norm_table2_diff_arch")}  # fmt: skip
    ends = []
    for k, name in enumerate(("crd_table1_same_arch", "crd_table2_diff_arch")):
        kd = {(pair["teacher"], pair["student"]): value
              for pair, value in zip(tables[name]["pairs"], tables[name]["methods"]["kd"], strict=True)}  # fmt: skip
        means = []
        for method, ids in later.items():
            cells = zip(tables[ids[k]]["pairs"], tables[ids[k]]["methods"][method], strict=True)
            both = [(kd.get((pair["teacher"], pair["student"])), cell) for pair, cell in cells]
            gains = [(cell["mean"] if isinstance(cell, dict) else cell) - base for base, cell in both if base and cell]
            means.append(sum(gains) / len(gains))
        ends.append(f"{min(means):.1f} to {max(means):.1f}")
    assert re.findall(r"\d\.\d to \d\.\d", said.partition("Later papers")[2])[:2] == ends


def _tables() -> list[dict]:
    content = yaml.safe_load((REPO / "distill/papers/tables.yaml").read_text(encoding="utf-8"))
    return content["tables"] if isinstance(content, dict) else content


def test_methods_that_are_advised_exist() -> None:
    advice = (DOCS / "which_method.md").read_text(encoding="utf-8").partition("## How much")[0]
    known = {*options("method"), "experiment"}
    cells = [row.split(" | ")[1] for row in re.findall(r"^\| .* \|$", advice, re.MULTILINE)]
    named = {name for cell in cells for name in re.findall(r"`([\w+-]+)`", cell)}
    assert len(named) > 20 and named - known == set()


def test_the_start_is_one_screen() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert len(text.splitlines()) <= 55 and all(f"distill/docs/{page.name}" in text for page in DOCS.glob("*.md"))
