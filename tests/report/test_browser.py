"""The report's page in a real browser: with 0, 1, 12 and 500 runs; light, dark, on a phone and on paper."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from test_report import write_run

from distill.cli import verbs
from tests.browsing import VIEWS, Look, check

ALONE = {"method": "none", "teacher": None, "teacher_accuracy": None, "convention": {"ce": 1.0}}
STATES = (0, 1, 12, 500)
Pages = dict[int, Path]


def run(root: Path, seed: int, last: float, curve: bool = True, **changes: Any) -> None:
    """A run with a curve of 24 epochs."""
    folder = write_run(root, seed, last, seconds=600 + 7 * (last * 100 % 97), **changes)
    if curve:
        rows = [
            {"kind": "epoch", "phase": "distill", "epoch": e, "epochs": 24, "test_accuracy": last - 40 / e + 40 / 24}
            for e in range(1, 25)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def runs(root: Path, state: int) -> None:
    """So many runs: a single one; three methods and the student alone; 54 methods of long names on three pairs."""
    root.mkdir()
    if state == 1:
        run(root, 1, 70.66)
    methods = {12: ("kd", "crd", "fitnet"), 500: [f"method-{k:02}-with-a-name" for k in range(54)]}.get(state, ())
    students = {12: ("resnet20",), 500: ("resnet20", "resnet32", "wrn_16_2")}.get(state, ())
    for (place, student), seed in product(enumerate(students), (1, 2, 3)):
        alone = 69.0 + place + seed / 7
        run(root, seed, alone, **{**ALONE, "student": student})
        for k, method in enumerate(methods):
            gain = 2.0 - k * (0.06 if state == 500 else 1.03) + [0.05, -0.02, 0.01, 0.09][(seed + k) % 4]
            run(root, seed, alone + gain, curve=k < 9, method=method, student=student, hash=f"h{k}")


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The page of each state."""
    top, made = tmp_path_factory.mktemp("pages"), {}
    for state in STATES:
        runs(top / str(state), state)
        made[state] = top / f"{state}.html"
        assert verbs.run("report", str(top / str(state)), "--out", str(made[state])) == 0
    return made


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("state", STATES)
def test_every_state_can_be_read_in_every_view(look: Look, pages: Pages, state: int, view: str) -> None:
    with look(pages[state], view) as page:
        check(page, view, f"report-{state}", axe=state < 500 or view == "light")  # it takes its time on many rows
        shown = page.locator("figure svg:visible").count()
        assert (shown > 0) is (state > 0)


@pytest.mark.parametrize("arguments", [["--against", "1"], ["--table", "crd_table1"], []])
def test_the_other_pages_can_be_read_too(look: Look, pages: Pages, tmp_path: Path, arguments: list[str]) -> None:
    top, page = pages[12].parent, tmp_path / "page.html"
    folders = [str(top / "12"), *(str(top / one) if one == "1" else one for one in arguments)]
    if not arguments:  # a run that is not finished, beside the others
        begun = tmp_path / "cifar100" / "resnet56-resnet20" / "crd-aaaa1111" / "s1"
        begun.mkdir(parents=True)
        (begun / "log.txt").write_text("--- python -m distill\n")
        folders.append(str(tmp_path))
    assert verbs.run("report", *folders, "--out", str(page)) == 0
    for view in ("dark", "phone"):
        with look(page, view) as opened:
            check(opened, view, page.stem)
            assert arguments or "cut off" in opened.inner_text("#t-2")


def test_nothing_run_says_what_to_run(look: Look, pages: Pages) -> None:
    with look(pages[0], "light") as page:
        assert "python -m distill -m method=none,kd,crd" in page.inner_text("header")
        assert page.locator("#filter").count() == 0


def test_the_first_view_answers_who_won_by_how_much_and_whether_it_is_real(look: Look, pages: Pages) -> None:
    with look(pages[12], "light") as page:
        bottom = page.locator("table").first.bounding_box()
        assert bottom is not None and bottom["y"] + bottom["height"] < 900  # chart and table without scrolling
        assert cells(page, 0) == ["teacher resnet56", "kd", "crd", "student alone", "fitnet"]
        assert cells(page, 5)[1:] == ["above", "above", "–", "within noise (below)"]


def cells(page: Any, column: int) -> list[str]:
    """What can be seen of a column of the first table."""
    found = page.locator(f"table >> nth=0 >> tbody tr:visible td:nth-child({column + 1})")
    return [text.strip() for text in found.all_inner_texts()]


def test_a_click_sorts_with_missing_values_last(look: Look, pages: Pages) -> None:
    with look(pages[12], "light") as page:
        head = page.locator("table >> nth=0 >> th").filter(has_text="Δ alone")
        head.locator("button").click()
        assert (head.get_attribute("aria-sort"), cells(page, 0)[0]) == ("descending", "kd")
        head.locator("button").click()
        assert cells(page, 0) == ["fitnet", "crd", "kd", "teacher resnet56", "student alone"]


def test_a_link_carries_a_view(look: Look, pages: Pages) -> None:
    with look(pages[12], "light", "#sort=2&filter=c%20above&theme=dark") as page:
        assert cells(page, 0) == ["crd"] and page.locator("html").get_attribute("data-theme") == "dark"
        assert page.locator("#count").inner_text() == "1 of 9 rows"


def test_the_rest_of_many_rows_unfolds_and_is_found(look: Look, pages: Pages) -> None:
    with look(pages[500], "light") as page:
        before = cells(page, 0)
        assert len(before) == 13 and before[-1] == "student alone"
        told, unfolded = page.locator("#count").inner_text().split(), page.locator("tr.more").count()
        assert unfolded and int(told[0]) == int(told[2]) - unfolded == page.locator("tbody tr:not(.more)").count()
        page.locator(".unfold").first.click()
        assert len(cells(page, 0)) == 56 and page.locator(".unfold").first.get_attribute("aria-expanded") == "true"
        page.locator(".unfold").first.click()
        head = page.locator("table >> nth=0 >> th").first.locator("button")
        head.click(), head.click()
        assert cells(page, 0)[:2] == ["teacher resnet56", "student alone"] and len(cells(page, 0)) == 13
        page.fill("#filter", "method-53")
        assert cells(page, 0) == ["method-53-with-a-name"]


def test_paper_is_light_and_has_whole_tables(look: Look, pages: Pages) -> None:
    with look(pages[500], "print") as page:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 32, 36)"
        cut = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length"
        assert page.evaluate(cut) == 0 and len(cells(page, 0)) == 56


def test_the_details_open_without_a_mouse(look: Look, pages: Pages) -> None:
    with look(pages[12], "light") as page:
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details table:visible").count() == 1
        check(page, "light", "report-12-open")
