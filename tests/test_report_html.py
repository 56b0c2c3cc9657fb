"""The HTML report: self-contained, escaped, with well-formed charts; a real browser sorts and filters it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_report import write_run

from distill.cli import verbs
from distill.report import svg
from distill.report.collect import collect
from distill.report.curves import POINTS, curve
from distill.report.figures import names, sections
from distill.report.summary import summarize

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


class Page(HTMLParser):
    """Reads back the tables: headings with aria-sort, rows with their cells, and whether rows are hidden."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.hidden: list[list[bool]] = []
        self.sorted: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.theme: str | None = None
        self._text: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag == "html":
            self.theme = found.get("data-theme")
        if tag == "tbody":
            self.tables.append([])
            self.hidden.append([])
        if tag == "tr" and self.tables:
            self.tables[-1].append([])
            self.hidden[-1].append("hidden" in found)
        if tag in ("td", "th"):
            self._text = []
            if found.get("aria-sort"):
                self.sorted.append((tag, str(found["aria-sort"])))

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "td" and self._text is not None and self.tables:
            self.tables[-1][-1].append("".join(self._text))
            self._text = None
        if tag == "tr" and self.tables and not self.tables[-1][-1]:  # the heading of the next table
            self.tables[-1].pop()
            self.hidden[-1].pop()

    def shown(self, column: int, table: int = 0) -> list[str]:
        rows = zip(self.tables[table], self.hidden[table], strict=True)
        return [row[column] for row, hidden in rows if not hidden]


def main(arguments: Sequence[str]) -> int:
    return verbs.run("report", *arguments)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three methods and the student alone on one pair; two seeds each, with curves."""
    folder = tmp_path / "outputs"
    for method, last in (("kd", 70.0), ("crd", 71.0), ("at", 69.5), ("none", 69.0)):
        for seed in range(2):
            teacher = {"teacher": None, "teacher_accuracy": None} if method == "none" else {}
            here = write_run(folder, seed, last + seed, method=method, seconds=last, **teacher)
            rows = [{"kind": "step", "phase": "distill", "epoch": 1, "step": 1, "loss": 3.0}]
            for epoch in range(1, 11):
                accuracy = last + seed - 10 + epoch
                rows.append(
                    {
                        "kind": "epoch",
                        "phase": "distill",
                        "epoch": epoch,
                        "step": epoch,
                        "test_accuracy": accuracy,
                    }
                )
            (here / "metrics.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "ep'
            )
    return folder


def write_page(runs: Path, *arguments: str) -> Path:
    target = runs.parent / "report.html"
    assert main([str(runs), "--out", str(target), *arguments]) == 0
    return target


def browse(page: Path, fragment: str, profile: Path) -> Page:
    """The DOM after the scripts have run in a headless browser that opened the file."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", f"file://{page}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Page(done.stdout)


def test_browser_sorts_by_a_column_with_missing_values_last(runs: Path, tmp_path: Path) -> None:
    page = write_page(runs)
    upwards = browse(page, "#sort=6", tmp_path / "a")  # last
    assert upwards.shown(0) == ["none", "at", "kd", "crd"]
    assert upwards.sorted == [("th", "ascending")]
    downwards = browse(page, "#sort=10&down=1", tmp_path / "b")  # gap: the student alone has none
    assert downwards.shown(0) == ["at", "kd", "crd", "none"]
    assert browse(page, "#sort=0", tmp_path / "c").shown(0) == ["at", "crd", "kd", "none"]  # words


def test_browser_filters_rows(runs: Path, tmp_path: Path) -> None:
    page = browse(write_page(runs), "#sort=6&filter=resnet56%20aaaa1111%20d&theme=dark", tmp_path / "profile")
    assert page.shown(0) == ["at", "kd", "crd"] and len(page.tables[0]) == 4
    assert page.theme == "dark"
    one = browse(write_page(runs, "--table", "crd_table1"), "#filter=fitnet", tmp_path / "other")
    assert one.shown(0) == ["fitnet"]


def test_page_needs_nothing_from_outside(runs: Path) -> None:
    text = write_page(runs, "--table", "crd_table1").read_text()
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\(|https?:""", text)
    assert "default-src 'none'" in text
    assert not {"link", "img", "iframe", "base"} & set(Page(text).tags)


def test_everything_from_files_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"' onload=x"
    for seed in range(2):
        write_run(
            tmp_path / "o" / "a",
            seed,
            dataset="d",
            student="s",
            teacher="t",
            method="m",
            protocol=evil,
            hash=str(seed),
        )
    for file in (tmp_path / "o").rglob("result.json"):
        result = json.loads(file.read_text())
        changed = {
            "teacher": evil,
            "student": evil,
            "method": evil,
            "hash": evil + result["hash"],
            "seconds": 5.0,
        }
        file.write_text(json.dumps({**result, **changed, "params": 10**6 + int(result["hash"])}))
    text = write_page(tmp_path / "o").read_text()
    assert Page(text).tags.count("script") == 1
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        ElementTree.fromstring(drawing)


def test_charts_show_what_is_there(runs: Path) -> None:
    found = {section.title: section.figures for section in sections(summarize(collect([runs]).runs))}
    assert list(found) == ["Accuracy against cost", "Gap to the teacher", "Learning curves"]
    cost = ElementTree.fromstring(found["Accuracy against cost"][-1].drawing)
    assert len(cost.findall("circle")) == 4  # against time; all params are equal, so there is no such chart
    assert len(found["Accuracy against cost"]) == 1
    (gaps,) = found["Gap to the teacher"]
    titles = [title.text or "" for title in ElementTree.fromstring(gaps.drawing).iter("title")]
    assert [title.split(",")[0] for title in titles] == ["crd", "kd", "at", "none"]  # the smallest gap first
    (curves,) = found["Learning curves"]
    assert [name for _, name in curves.legend] == ["none", "crd", "kd", "at"]


def test_no_charts_without_runs(tmp_path: Path) -> None:
    assert sections([]) == []
    (tmp_path / "empty").mkdir()
    assert "0 runs read." in write_page(tmp_path / "empty").read_text()


def test_curves_count_epochs_over_phases_and_survive_damage(tmp_path: Path) -> None:
    for seed, offset in enumerate((0.0, 2.0)):
        rows = [{"kind": "epoch", "phase": "hint", "epoch": 1, "step": 5, "loss": 1.0}]
        rows += [
            {"kind": "epoch", "phase": "distill", "epoch": e, "step": 5 + e, "test_accuracy": 50 + e + offset}
            for e in range(1, 4)
        ]
        here = write_run(tmp_path, seed)
        lines = [json.dumps(row) for row in rows]
        (here / "metrics.jsonl").write_text(
            "\n".join([lines[0], "\x00 broken", "[1]", '"epoch"', *lines[1:]])
        )
    (row,) = summarize(collect([tmp_path]).runs)
    got = curve(row)
    assert got is not None
    assert (got.epochs, got.mean, got.low, got.high, got.n) == (
        [2, 3, 4],
        [52, 53, 54],
        [51, 52, 53],
        [53, 54, 55],
        2,
    )
    for run in row.runs:
        (run.folder / "metrics.jsonl").unlink()
    assert curve(row) is None


def test_long_curves_are_thinned_and_keep_their_end(tmp_path: Path) -> None:
    here = write_run(tmp_path)
    rows = ({"kind": "epoch", "phase": "p", "epoch": e, "test_accuracy": e / 20} for e in range(1, 1001))
    (here / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = curve(summarize(collect([tmp_path]).runs)[0])
    assert (
        got is not None and len(got.epochs) <= POINTS + 1 and got.epochs[-1] == 1000 and got.mean[-1] == 50.0
    )


def test_names_tell_configurations_apart(tmp_path: Path) -> None:
    write_run(tmp_path, method="crd", hash="one111111", convention={"ce": 1, "kd": 0, "weight": 0.8})
    write_run(tmp_path, method="crd", hash="two222222", convention={"ce": 1, "kd": 1, "weight": 0.8})
    write_run(tmp_path, method="crd", hash="three3333", convention={"ce": 1, "kd": 1, "weight": 0.8})
    write_run(tmp_path)
    called = names(summarize(collect([tmp_path]).runs))
    assert sorted(called.values()) == ["crd (kd 0)", "crd (kd 1, three3)", "crd (kd 1, two222)", "kd"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (68.2, 78.9), (-3, 12), (0.001, 0.0012), (1e5, 9e6)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    got = svg.ticks(low, high)
    assert 3 <= len(got) <= 8 and all(low - 1e-9 <= value <= high + 1e-9 for value in got)
    step = got[1] - got[0]
    assert float(f"{step:.0e}".split("e")[0]) in (1, 2, 5) and got[-1] - got[0] == pytest.approx(
        step * (len(got) - 1)
    )
