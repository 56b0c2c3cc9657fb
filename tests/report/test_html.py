"""The HTML report: self-contained, escaped, with charts that say what the runs do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_report import write_run

from distill import charts
from distill.charts import svg
from distill.cli import verbs
from distill.report.collect import collect
from distill.report.curves import POINTS, curve
from distill.report.figures import ChartSet, colours, shown
from distill.report.names import row_names
from distill.report.ranking import rankings
from distill.report.summary import summarize


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def main(arguments: Sequence[str]) -> int:
    return verbs.run("report", *arguments)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three methods and the student alone on one pair; two seeds each, with curves."""
    folder = tmp_path / "outputs"
    for method, last in (("kd", 70.0), ("crd", 71.0), ("at", 69.5), ("none", 69.0)):
        for seed in range(2):
            teacher = {"teacher": None, "teacher_accuracy": None} if method == "none" else {}
            here = write_run(folder, seed, last + seed, method=method, seconds=60 * (last - 60), **teacher)
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


def test_page_needs_nothing_from_outside(runs: Path) -> None:
    text = write_page(runs, "--table", "crd_table1").read_text()
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\(|https?:""", text)
    assert "default-src 'none'" in text
    assert not {"link", "img", "iframe", "base"} & set(Tags(text).tags)


def test_charts_follow_a_published_table(runs: Path) -> None:
    text = write_page(runs, "--table", "crd_table1").read_text()
    assert text.index("CRD Table 1") < text.index("<h2>resnet56 → resnet20, cifar100") < text.index("<figure")


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
    assert Tags(text).tags.count("script") == 1
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        ElementTree.fromstring(drawing)


def test_no_charts_without_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = write_page(tmp_path / "empty").read_text()
    assert "0 runs read." in text and "<svg" not in text


def test_curves_count_epochs_of_measured_phases_as_the_best_one_is_counted_and_survive_damage(tmp_path: Path) -> None:
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
        [1, 2, 3],
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
    called = row_names(summarize(collect([tmp_path]).runs))
    assert sorted(called.values()) == ["crd (kd 0)", "crd (kd 1, three3)", "crd (kd 1, two222)", "kd"]


# ---------------------------------------------------------------- charts


def shapes(drawing: str, kind: str) -> list[ElementTree.Element]:
    """The elements of a class in a chart's wide drawing."""
    root = ElementTree.fromstring(drawing[drawing.index("<svg") : drawing.index("</div>")])
    return [element for element in root.iter() if kind in (element.get("class") or "").split()]


def charts_of(runs: Path) -> ChartSet:
    ranked = rankings(summarize(collect([runs]).runs))
    return shown(ranked[0], colours(ranked))


def test_a_pair_is_ranked_with_the_teacher_and_the_student_alone_as_lines(runs: Path) -> None:
    chart, curves = charts_of(runs).open
    named = [(element.text or "") for element in shapes(chart.drawing, "name")]
    assert [name for name in named if "alone" not in name and "teacher" not in name] == ["crd", "kd", "at"]
    assert {"teacher resnet56 72.34", "student alone 69.50"} <= set(named)
    xs = [float(dot.get("cx", 0)) for kind in ("open", "sure") for dot in shapes(chart.drawing, kind)]
    (alone,) = (line for line in shapes(chart.drawing, "mark") if "alone" in line.get("class", ""))
    assert len(xs) == 4 and float(alone.get("x1", 0)) == pytest.approx(min(xs))
    ends = [element.text for element in shapes(curves.drawing, "name")]
    assert ends == ["crd 71.50", "kd 70.50", "at 70.00", "student alone 69.50", "teacher resnet56 72.34"]


def test_one_colour_a_method_in_all_charts(runs: Path) -> None:
    found: dict[str, set[str]] = {}
    pictures = charts_of(runs)
    for figure in pictures.open + pictures.folded:
        for element in shapes(figure.drawing, "name"):
            method = (element.text or "").split()[0]
            found.setdefault(method, set()).add((element.get("class") or "").split()[1])
    assert {method: len(kinds) for method, kinds in found.items() if method != "teacher"} == dict.fromkeys(
        ("crd", "kd", "at", "student"), 1
    )
    assert len(set.union(*found.values())) == len(found)


def test_every_point_of_the_cost_chart_is_named(runs: Path) -> None:
    (cost,) = charts_of(runs).folded
    assert cost.title == "Accuracy against minutes of a run"
    named = [element.text or "" for element in shapes(cost.drawing, "name")]
    assert sorted(named) == ["at", "crd", "kd", "student alone", "teacher resnet56 72.34"]


def test_a_chart_of_one_vertical_line_is_not_drawn(tmp_path: Path) -> None:
    for method in ("kd", "crd"):
        write_run(tmp_path, method=method)
    assert charts_of(tmp_path).folded == []


def test_of_many_the_first_are_drawn_with_the_student_alone(tmp_path: Path) -> None:
    write_run(tmp_path, last=10.0, method="none", teacher=None, teacher_accuracy=None)
    for number in range(40):
        write_run(tmp_path, last=50.0 + number / 10, method=f"m{number}")
    pictures = charts_of(tmp_path)
    named = [element.text for element in shapes(pictures.open[0].drawing, "name")]
    assert named.count("student alone") == 1 and "m39" in named and "m0" not in named and len(named) == 14
    assert len([one for one in shapes(pictures.folded[0].drawing, "name") if (one.text or "")[0] == "m"]) == 40


def test_the_axis_of_curves_is_that_of_their_last_quarter() -> None:
    curve = charts.Curve("kd", range(101), [*range(100), 99.0], [*range(100), 99.0], [*range(100), 99.0], "s0")
    drawing = charts.curves([curve], [], ("epoch", "accuracy"), "x")(600)
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([-\d.]+)<', str(drawing))]
    assert min(ticks) >= 70 and max(ticks) <= 102


def test_a_ranking_is_not_dwarfed_by_one_that_failed() -> None:
    dots = [charts.Dot(str(value), value, "s0") for value in (71.0, 70.5, 70.0, 69.5, 1.0)]
    drawing = str(charts.ranked(dots, [], "accuracy", "x")(600))
    assert drawing.count("<circle") == 4 and "◂" in drawing and ">1.00<" in drawing


@pytest.mark.parametrize(("values", "line"), [([0.6], 0.0), ([-0.6], 0.0), ([71.0, 70.0], 99.0), ([70.0], 70.0)])
def test_lines_are_in_the_chart_wherever_the_dots_are(values: list[float], line: float) -> None:
    dots = [charts.Dot(str(value), value, "s0") for value in values]
    drawing = str(charts.ranked(dots, [charts.Mark("line", line, "alone")], "x", "x", most=None)(600))
    (x,) = re.findall(r'class="mark alone" x1="([-\d.]+)"', drawing)
    grid = [float(one) for one in re.findall(r'class="grid" x1="([-\d.]+)"', drawing)]
    assert grid and 20 < float(x) < 560


@pytest.mark.parametrize("wanted", [[5, 5, 5], [0, 0, 50], [49, 50, 50], [10, 20, 30], [7]])
def test_names_that_would_meet_move_apart(wanted: list[float]) -> None:
    got = svg.spread_out(wanted, 10, 0, 50)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(got)) and min(got) >= 0 and max(got) <= 50


@pytest.mark.parametrize(("low", "high"), [(0, 1), (68.2, 78.9), (-3, 12), (0.001, 0.0012), (1e5, 9e6)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    got = svg.ticks(low, high)
    assert 3 <= len(got) <= 8 and all(low - 1e-9 <= value <= high + 1e-9 for value in got)
    step = got[1] - got[0]
    assert float(f"{step:.0e}".split("e")[0]) in (1, 2, 5) and got[-1] - got[0] == pytest.approx(
        step * (len(got) - 1)
    )
