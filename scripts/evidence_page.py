"""What `make evidence` keeps of its runs, and the page of verdicts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.report.stats import Sample, half_interval, sample
from distill.run_folder import RunFolder

DONE = "done"
KEPT = (  # of result.json
    "accuracy", "errors", "errors_of_omitted", "omitted", "teacher_accuracy", "agreement", "protocol", "departs",
    "convention", "epochs", "params", "images_per_second", "seconds", "precision", "device", "threads", "versions",
    "also",
)  # fmt: skip
HEAD = ["| cell | measure | published | ours | n | verdict | state |", "|---|---|---|---|---|---|---|"]
ENOUGH = 3  # seeds: the 95 % interval of two is twelve standard errors wide to each side, and holds anything
POINTS = 40  # of a curve, at most
CURVE = ("epoch", "loss", "train_accuracy", "test_accuracy")
MEASURES = {  # how a key of result.json is told
    "also.tasks.average": "average accuracy",
    "accuracy.last": "accuracy",
    "accuracy.best": "best accuracy",
    "errors_of_omitted": "of them of digits left out",
    "omitted.bias": "best shift of the bias",
    "omitted.corrected.errors": "errors, bias shifted",
    "omitted.corrected.errors_of_omitted": "of them of digits left out, bias shifted",
}
RULE = (
    "± is the standard deviation over seeds; SE marks the standard error of the mean, where that was published. "
    "Verdicts: *within noise* where the published number lies within the 95 % interval of our mean over seeds; for "
    "counts of errors the interval holds the noise of counting behind the published one (binomial, one net) too, "
    "for others its standard error where it has one. "
    "*n too small*: fewer than three seeds. An order *holds* where the means differ so by more than their 95 % "
    "intervals, *alike* where they do not."
)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """What is recorded of a table."""
    path = folder / "results.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def record(folder: Path, placed: Sequence[tuple[Any, str, Path]], of: int | None) -> None:
    """Write results.json, a line a run (run, hash, folder) that is done or under way; others' rows stay."""
    known = {(row["hash"], row["seed"]): row for row in rows_of(folder)}
    for run, digest, where in placed:
        if row := _row(run, digest, where, of):
            known[digest, run.seed] = {**row, "curve": _curve(_epochs(where))}
    if not known:
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(known[key], ensure_ascii=False) for key in sorted(known, key=str))
    (folder / "results.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def _row(run: Any, digest: str, where: Path, of: int | None) -> dict[str, Any] | None:
    """A run's row; None where it has not begun. One that is not done says how far it is and what it was worth there."""
    epochs = _epochs(where)
    row = {"cell": run.cell, "seed": run.seed, "hash": digest, "command": " ".join(["python -m distill", *run.words])}
    if (found := RunFolder(where).result) is not None:
        result = found.to_json()
        kept = {key: result[key] for key in KEPT if result.get(key) is not None}
        if of and "errors" not in kept:  # of a result from before errors were counted
            kept["errors"] = round(of * (1 - result["accuracy"]["last"] / 100))
        return {**row, "state": DONE, **kept}
    if not epochs:
        return None
    last = epochs[-1]
    return {**row, "state": f"epoch {last['epoch']} of {last['epochs']}", "test_accuracy": last["test_accuracy"]}


def _epochs(where: Path) -> list[dict[str, Any]]:
    """The rows of epochs of a run's metrics."""
    return [row for row in RunFolder(where).rows("epoch") if row.get("test_accuracy") is not None]


def _curve(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """At most POINTS epochs of a run, the last among them: a list for each quantity."""
    every = math.ceil(len(rows) / POINTS) or 1
    chosen = [row for number, row in enumerate(rows, 1) if number % every == 0 or number == len(rows)]
    return {key: [float(f"{row[key]:.5g}") if row.get(key) is not None else None for row in chosen] for key in CURVE}


def value(row: Mapping[str, Any], key: str) -> float | None:
    """A number of a row by its dotted key."""
    node: Any = row
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return None if node is None else float(node)


def verdict(ours: Sample | None, published: float, of: int | None, counted: bool, error: float = 0.0) -> str:
    """RULE for a mean over seeds and a published number, in words. error: the standard error it was published with."""
    if ours is None:
        return "missing"
    if ours.n < ENOUGH or ours.std is None:
        return "n too small"
    noise = published * (1 - published / of) if counted and of else 0.0
    half = math.hypot(half_interval(ours) or 0.0, 1.96 * math.sqrt(noise), 1.96 * error) + 0.005
    if abs(ours.mean - published) <= half:
        return "within noise"
    return "above" if ours.mean > published else "below"


def order(one: Sample | None, other: Sample | None, relation: str) -> str:
    """Whether the first has fewer errors than the second, or as many (relation: fewer, alike)."""
    if one is None or other is None or min(one.n, other.n) < ENOUGH:
        return "n too small"
    apart = other.mean - one.mean
    clear = abs(apart) > math.hypot(half_interval(one) or 0.0, half_interval(other) or 0.0)
    if relation == "alike":
        return "holds" if not clear else "does not hold"
    return "not clear" if not clear else "holds" if apart > 0 else "does not hold"


def page(blocks: Iterable[tuple[Mapping[str, Any], Sequence[Any]]], tables: Path, digest: Callable[[Any], str]) -> str:
    """The page: every block's cells beside what was published, with verdict and state."""
    parts = ["# Published numbers, and what came out", "", f"Written by `make evidence`. {RULE}"]
    for block, runs in blocks:
        level = "###" if block.get("aside") else "##"
        parts += ["", f"{level} {block['title']}", "", " ".join(str(block["protocol"]).split()), ""]
        if block.get("blocked"):
            parts += [f"Cannot run: {block['blocked']}. Published: " + "; ".join(_published(block)) + "."]
            continue
        rows = {(row["hash"], row["seed"]): row for row in rows_of(tables / block["table"])}
        held: dict[str, list[Mapping[str, Any]]] = {}
        for run in runs:
            held.setdefault(run.cell, []).append(rows.get((digest(run), run.seed), {}) if rows else {})
        measures = {run.cell: run.measures or {"errors": None} for run in runs}
        begun = [cell for cell, found in held.items() if "paper" not in block or any(found)]
        parts += HEAD if begun else []
        for cell, found in ((cell, held[cell]) for cell in begun):
            parts += [_line(cell, key, number, found, block) for key, number in measures[cell].items()]
        parts += _left_out(block, held) + [_ordered(one, held) for one in block.get("orders", [])] + _ran_on(held)
    return "\n".join(parts) + "\n"


def _line(cell: str, key: str, stated: Any, found: Sequence[Mapping[str, Any]], block: Mapping[str, Any]) -> str:
    """A row of the table: what was published (a number, or it and its standard error) beside ours."""
    ours = sample([value(row, key) for row in found if row.get("state") == DONE])
    published, error = stated if isinstance(stated, list) else (stated, 0.0)
    counted = key.endswith(("errors", "errors_of_omitted"))
    said = "" if published is None else verdict(ours, published, block.get("of"), counted, error)
    shown = "" if published is None else f"{published:g}" + (f" ± {error:g} SE" if error else "")
    mean = _mean(ours, bool(block.get("standard_error")))
    columns = [cell, MEASURES.get(key, key), shown, mean, str(ours.n if ours else 0), said, _state(found)]
    return f"| {' | '.join(columns)} |"


def _mean(ours: Sample | None, standard_error: bool) -> str:
    """A mean with its spread over seeds, or with its standard error."""
    if ours is None:
        return ""
    if ours.std is None:
        return f"{ours.mean:.4g}"
    spread = ours.std / math.sqrt(ours.n) if standard_error else ours.std
    digits = f"{spread:.2g}" if spread < 10 else f"{spread:.0f}"
    return f"{ours.mean:.4g} ± {digits}{' SE' * standard_error}"


def _ran_on(held: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A line on the machines and versions behind a block's rows, with how many runs each has; none without runs."""
    done = [row for found in held.values() for row in found if row.get("state") == DONE]
    named = Counter(
        f"{row.get('device')}, {row.get('precision')}, torch {(row.get('versions') or {}).get('torch')}" for row in done
    )
    told = [f"{which} ({count} run{'s' * (count > 1)})" for which, count in named.items()]
    return ["", f"Ran on {'; '.join(told)}."] if told else []


def _state(found: Sequence[Mapping[str, Any]]) -> str:
    done = sum(row.get("state") == DONE for row in found)
    going = [f"one at {row['state']} ({row['test_accuracy']:.2f} %)" for row in found if row and row["state"] != DONE]
    return "; ".join([f"{done} of {len(found)} done", *going])


def _published(block: Mapping[str, Any]) -> list[str]:
    return [f"{name} {cell['published']}" for name, cell in block["cells"].items()]


def _left_out(block: Mapping[str, Any], held: Mapping[str, Sequence[Any]]) -> list[str]:
    """How many cells of a published table have no run yet: they are not listed."""
    empty = sum(not any(found) for found in held.values()) if "paper" in block else 0
    return [*([""] if empty < len(held) else []), f"{empty} of {len(held)} cells have no run yet."] if empty else []


def _ordered(one: Mapping[str, Any], held: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    first, second = (
        sample([value(row, "errors") for row in held[cell] if row.get("state") == DONE]) for cell in one["cells"]
    )
    return f"| *{one['says']}* | errors | order | | | {order(first, second, one['relation'])} | |"
