"""Recorded results: `python scripts/records.py --check` says which their own command does not give any more.

A set is a folder of outputs/reference with records.json, a row a run, and a README.md whose table is written from it
between two marks. `--write SET FOLDER ...` makes both of finished runs, with --add beside what is there;
`--prune SET ...` takes out what is stale; `--mark SET METHOD WHY` says of a method's rows what has been mended in its
code since, until they are run again, since no hash tells of code; `--missing SET EXPERIMENT ...` prints the commands of
runs that have no row.

What a row's command gives is made out in recorded_runs.py.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from recorded_runs import Row, experiment_of, hashes, jobs, known, seedless, stale  # noqa: E402

from distill import config  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "outputs" / "reference"
MARKS = ("<!-- records -->", "<!-- /records -->")
KEPT = ("dataset", "teacher", "student", "method", "seed", "hash", "epochs", "teacher_accuracy", "params", "macs",
        "seconds", "precision", "device", "threads")  # fmt: skip


# ---- from finished runs to rows


def rows_of(folders: Iterable[Path]) -> list[Row]:
    """A row for each finished run below the folders, one for each experiment that has the run.

    Data that hold other than what their name says, found where the run's command has them (DISTILL_DATA), are part of
    a row's overrides: so whoever checks it need not have them. Raises ValueError for a run that its command does not
    give.
    """
    found: dict[tuple[str, str, int], Row] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        row = {key: result[key] for key in KEPT if result.get(key) is not None}
        row |= {key: result[key] for key in ("accuracy", "also", "quantized", "versions", "setting") if result.get(key)}
        fitting = [words for words in jobs(result["command"]) if result["hash"] in hashes(seedless(words))]
        if not fitting:
            raise ValueError(f"{path}: {result['hash']} is no run of its command any more: {result['command']}")
        held = hashes(seedless(fitting[0]))[result["hash"]].dataset.content
        words = [*fitting[0], *([f"+dataset.content={held}"] if held else [])]
        row["overrides"] = [*seedless(words), f"seed={result['seed']}"]
        found.setdefault(_key(row), row)
    return in_order([*found.values(), *shared(found.values())])


def shared(rows: Iterable[Row]) -> list[Row]:
    """The rows of runs that another experiment of the rows has as well, with its overrides."""
    rows, more = list(rows), []
    results = {(row["hash"], row["seed"]): row for row in rows}
    known_as = {_key(row) for row in rows}
    for experiment in sorted({experiment_of(row) for row in rows} - {""}):
        for words in jobs(f"python -m distill experiment={experiment}"):
            for seed in [int(text[5:]) for text in words if text.startswith("seed=")] or [1]:
                digest = next(iter(hashes(seedless(words))))
                if (digest, seed) in results and (experiment, digest, seed) not in known_as:
                    known_as.add((experiment, digest, seed))
                    more.append(results[digest, seed] | {"overrides": [*seedless(words), f"seed={seed}"]})
    return more


def missing(rows: Iterable[Row], experiments: Iterable[str]) -> Iterator[list[str]]:
    """The overrides of each run of the experiments that no row has, in the precision of its machine or another."""
    there = {(row["hash"], row["seed"]) for row in rows}
    for experiment in experiments:
        for words in jobs(f"python -m distill experiment={experiment}"):
            seed = next((int(text[5:]) for text in words if text.startswith("seed=")), 1)
            alike = (seedless([*words, *more]) for more in ([], ["precision=fp32"]))
            keys = {(next(iter(hashes(overrides))), seed) for overrides in alike}
            if not keys & there:
                there |= keys
                yield words


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows by experiment, method, configuration and seed."""
    return sorted(rows, key=lambda row: (experiment_of(row), row["method"], row["hash"], row["seed"]))


def _key(row: Row) -> tuple[str, str, int]:
    return experiment_of(row), row["hash"], row["seed"]


def told_apart(rows: list[Row]) -> None:
    """Give each row `what`: the values in which it differs from the others of its experiment, method and nets."""
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows:
        key = (experiment_of(row), row["method"], str(row.get("teacher")), row["student"])
        groups.setdefault(key, {}).setdefault(row["hash"], []).append(row)
    for group in groups.values():
        flat = {digest: _flat(config.thawed(known(some[0])[digest].hashed)) for digest, some in group.items()}
        keys = sorted({key for values in flat.values() for key in values})
        needed = {digest for digest, some in group.items() if next(iter(known(some[0]))) != digest}
        for alike in (needed, group.keys() - needed):  # what was needed before is another kind of run in all it has
            differing = [key for key in keys if len({str(flat[digest].get(key)) for digest in alike}) > 1]
            for digest in alike:
                some = group[digest]
                told = [text for text in next(iter(some))["overrides"] if text.startswith("precision=")]
                apart = [key for key in differing if not _above(key, differing) and (key != "precision" or not told)]
                told += [_said(key, flat[digest]) for key in apart]
                for row in some:
                    row["what"] = ", ".join(["needed before"] * (digest in needed) + told)


def _above(key: str, others: Sequence[str]) -> bool:
    """Whether a node that the key lies in is among others: one run has it, and another has null there."""
    return any(key.startswith(f"{other}.") for other in others)


def _said(key: str, values: dict[str, Any]) -> str:
    return key if any(_above(each, [key]) for each in values) else f"{key}={values.get(key, 'null')}"


def _flat(node: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {above: "null" if node is None else node}
    parts = (_flat(value, f"{above}.{key}" if above else str(key)) for key, value in node.items())
    return {key: value for part in parts for key, value in part.items()}


# ---- the table


def table(rows: list[Row]) -> str:
    """Markdown: a row a configuration, mean and sample standard deviation over its seeds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((experiment_of(row), row["hash"]), []).append(row)
    lines = ["| experiment | method | teacher | student | what | n | last | configuration |", "|" + "---|" * 8]
    for (experiment, digest), some in groups.items():
        values = [row["accuracy"]["last"] for row in some]
        teacher = some[0].get("teacher") or "none"
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        first, also = some[0], _also(some)
        method = first["method"] + " †" * any("since" in row for row in some)
        cells = (experiment or "–", method, teacher.replace("none", "–"), first["student"],
                 first["what"] or "–", len(some), f"{mean(values):.2f}{spread}{also}", digest)  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    since = {row["method"]: row["since"] for row in rows if "since" in row}
    told = "; ".join(f"{method}: {why}" for method, why in since.items())
    return "\n".join([*lines, *([f"\n† run before a mend of the code: {told}."] if told else [])])


def _also(rows: list[Row]) -> str:
    """Further numbers of a configuration's runs: peers, exits, what a lifelong run measures."""
    measured = [_flat(row.get("also", {})) for row in rows]
    names = [name for name, value in measured[0].items() if isinstance(value, float) and ".task_" not in name]
    told = (f"{name} {mean(values[name] for values in measured):.2f}" for name in names[:4])
    return f" ({', '.join(told)})" if names else ""


def most_common(values: list[Any]) -> Any:
    """The value that is there most often, the first of several; None where there is none."""
    return max(values, key=values.count, default=None)


def write(folder: Path, rows: list[Row]) -> None:
    """Write records.json, and the table into README.md between its marks."""
    told_apart(rows)
    common = {key: most_common([row[key] for row in rows if key in row]) for key in ("versions", "device")}
    own = [{key: value for key, value in row.items() if common.get(key) != value} for row in rows]
    kept = [{key: value for key, value in row.items() if value not in ({}, None)} for row in own]
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in kept)
    text = f'{{"shared": {json.dumps(common)},\n "rows": [\n{lines}\n]}}\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.json").write_text(text, encoding="utf-8")
    page = folder / "README.md"
    prose = page.read_text(encoding="utf-8") if page.exists() else f"# {folder.name}\n\n{MARKS[0]}\n{MARKS[1]}\n"
    if not all(mark in prose for mark in MARKS):
        raise ValueError(f"{page} has no {MARKS[0]} and {MARKS[1]}: put them where its table is to stand")
    above, _, rest = prose.partition(MARKS[0])
    below = rest.partition(MARKS[1])[2]
    page.write_text(f"{above}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{below}", encoding="utf-8")


def read(folder: Path) -> list[Row]:
    """The rows of a set."""
    content = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    return [{"what": "", **content["shared"], **row} for row in content["rows"]]


def sets() -> list[Path]:
    """All sets, in the order of their names."""
    return sorted(path.parent for path in REFERENCE.rglob("records.json"))


def check(folders: Iterable[Path]) -> int:
    """Print what is stale; 1 where anything is."""
    bad = 0
    for folder in folders:
        rows = read(folder)
        for row, why in stale(rows):
            bad += 1
            print(f"{folder.name}: {row['hash']} of '{' '.join(row['overrides'])}' {why}: run it again, or --prune")
        print(f"{folder.name}: {len(rows)} rows")
    return int(bad > 0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs="*", type=Path, metavar="SET", help="all sets where none is named")
    parser.add_argument("--write", nargs="+", type=Path, metavar=("SET", "FOLDER"), help="a set, and folders of runs")
    parser.add_argument("--add", action="store_true", help="keep the set's other rows; same hash and seed are replaced")
    parser.add_argument("--prune", nargs="+", type=Path, metavar="SET", help="take out rows that are stale")
    parser.add_argument("--mark", nargs=3, metavar=("SET", "METHOD", "WHY"), help="rows from before a mend of the code")
    parser.add_argument("--missing", nargs="+", metavar=("SET", "EXPERIMENT"), help="commands of runs without a row")
    args = parser.parse_args(argv)
    if args.write:
        folder, *roots = args.write
        rows = rows_of(roots)
        if args.add:
            fresh = {_key(row) for row in rows}
            rows += [row for row in read(folder) if _key(row) not in fresh]
            rows = in_order([*rows, *shared(rows)])
        write(folder, rows)
    for folder in args.prune or []:
        rows = read(folder)
        old = {id(row) for row, _ in stale(rows)}
        write(folder, [row for row in rows if id(row) not in old])
    if args.mark:
        folder, method, why = Path(args.mark[0]), *args.mark[1:]
        write(folder, [row | {"since": why} if row["method"] == method else row for row in read(folder)])
    if args.missing:
        folder, names = Path(args.missing[0]), args.missing[1:]
        rows = read(folder)
        for words in missing(rows, names or sorted({experiment_of(row) for row in rows} - {""})):
            print(shlex.join(["python", "-m", "distill", *words, "hydra.mode=RUN"]))
    return check(args.check or sets()) if args.check is not None else 0


if __name__ == "__main__":
    sys.exit(main())
