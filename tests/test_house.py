"""The rooms of the package: no two files import each other in a circle, and no room imports one above it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "distill"
FLOORS = (  # from the ground up; rooms on one floor do not import each other
    {"strict_json", "terminal", "torchrun", "cores", "end"},
    {"charts", "errors", "file_lock", "files", "runtime", "losses", "batch", "result", "row_lines"},
    {"criterion", "parallel", "signals", "run_folder"},
    {"content", "locking"},
    {"config"},
    {"models"},
    {"data"},
    {"method", "start"},
    {"engine"},
    {"parts"},
    {"methods"},
    {"teachers"},
    {"record", "preflight", "timed_step"},
    {"rehearsal"},
    {"own_losses"},
    {"run"},
    {"finished_run"},
    {"papers"},
    {"sweep"},
    {"report"},
    {"cli"},
    {"probe", "analyze", "search", "export"},
    {"api"},
    {"contract"},
    {"__main__", "__init__"},
)
UPWARD = {("sweep", "cli")}  # a worker starts the program itself
COMPOSED = ("config.", "cli.", "run.run.",
            *(f"sweep.{name}." for name in ("plan", "checked", "compose", "jobs", "launcher", "launchers"))
)  # fmt: skip
"""Who may take a composed configuration: what reads and checks it, plans with it, and run.run, which resolves it."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below `distill`."""
    paths = PACKAGE.rglob("*.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports(path: Path, known: set[str]) -> set[str]:
    """The modules of ours that a file imports, wherever in it; `from room import name` imports the room as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "distill":
            base = (node.module or "").partition(".")[2]
            found |= {base or "__init__", *(f"{base}.{alias.name}".strip(".") for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] or "__init__" for alias in node.names if is_ours(alias.name)}
    return found & known


def is_ours(name: str) -> bool:
    return name.split(".")[0] == "distill"


@cache
def graph() -> dict[str, set[str]]:
    """Which module imports which; `__init__` is the package itself, through which a user comes."""
    known = modules()
    return {name: imports(path, set(known)) - {name} for name, path in known.items()}


def test_no_files_import_each_other_in_a_circle() -> None:
    arrows = graph()

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += arrows.get(name, ())
        return seen

    assert [name for name in arrows if name in reached(name)] == []


def test_no_room_imports_a_room_above_it() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if (rooms := (name.split(".")[0], other.split(".")[0]))[0] != rooms[1]
        and floor[rooms[0]] <= floor[rooms[1]]
        and rooms not in UPWARD
    ]
    assert wrong == []


def test_every_module_has_its_floor() -> None:
    assert {name.split(".")[0] for name in graph()} == set().union(*FLOORS)


def test_the_configuration_goes_no_further_than_run() -> None:
    """Below run.run a RunSpec is all that is seen."""
    takers = {
        f"{name}.{function.name}."
        for name, path in modules().items()
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef) and any(map(is_composed, ast.walk(function.args)))
    }
    assert [name for name in takers if not name.startswith(COMPOSED)] == [] and "run.run." in takers


def is_composed(node: ast.AST) -> bool:
    """Whether a parameter is a composed configuration, by its name or its type."""
    type_of = ast.unparse(node.annotation) if isinstance(node, ast.arg) and node.annotation else ""
    return isinstance(node, ast.arg) and (node.arg in ("cfg", "_root_") or "DictConfig" in type_of)


def test_config_exports_nothing_under_the_name_of_a_module_of_its_own() -> None:
    """`distill.config.identity` was the function, and its module out of reach."""
    room = PACKAGE / "config"
    names = [
        alias.asname or alias.name
        for node in ast.walk(ast.parse((room / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert names and [name for name in names if (room / f"{name}.py").exists()] == []


def test_the_readme_shows_every_room() -> None:
    shown = (PACKAGE.parent / "README.md").read_text(encoding="utf-8").partition("## Architecture")[2]
    rooms = {path.name if path.is_file() else f"{path.name}/" for path in PACKAGE.iterdir() if path.name[0] not in "_."}
    assert {room for room in rooms - {"py.typed"} if f"`{room}`" not in shown} == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    repo = PACKAGE.parent
    named = re.findall(r"`([\w./-]+)`", (repo / page).read_text(encoding="utf-8"))
    paths = {name for name in named if re.search(r"/|\.(py|yaml|md|json)$", name) and not name.startswith("outputs/")}
    known = [path.relative_to(repo).as_posix() for top in ("distill", "conf", "tests", "scripts")
             for path in (repo / top).rglob("*")] + [path.name for path in repo.iterdir()]  # fmt: skip
    ends = {end for path in known for end in ends_of(path)}
    assert len(paths) > 15 and {path for path in paths if path.strip("/") not in ends | {"result.json"}} == set()


def ends_of(path: str) -> list[str]:
    """`a/b/c`, `b/c` and `c`."""
    parts = path.split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]


# Names that every module of a kind answers to, so that what asks need not know which it has: a verb's `arguments`
# and `run`, a figure's `draw`, the `main` of a program, and a module's logger.
ASKED_FOR = {"arguments", "run", "draw", "main", "log"}


def public_names(path: Path) -> set[str]:
    """The functions, classes and constants without an underscore that a module defines."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            found |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)} if target else set()
    return {name for name in found if not name.startswith("_")}


def test_a_public_name_stands_for_one_thing_in_the_whole_tree() -> None:
    homes: dict[str, list[str]] = {}
    for module, path in modules().items():
        for name in public_names(path) - ASKED_FOR:
            homes.setdefault(name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
