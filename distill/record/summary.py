"""The small table at the end of a run."""

from __future__ import annotations

from distill.config import RunSpec
from distill.record.progress import NEGLIGIBLE, clock, final_table
from distill.result import Accuracy, Result
from distill.run_folder import RunFolder


def show_summary(spec: RunSpec, result: Result) -> None:
    """Print who taught whom, how well, at what cost, and where the files are."""
    rows: list[tuple[str, str]] = []
    if result.teacher and result.teacher_accuracy is not None:
        rows.append((f"teacher {result.teacher}", f"{result.teacher_accuracy:.2f} %"))
    if (alone := student_alone(spec)) is not None:
        rows.append((f"student {result.student} alone", _last_and_best(alone.accuracy)))
    if result.accuracy.last is not None or not result.knn:
        rows.append((f"student {result.student}, {result.method}", _last_and_best(result.accuracy)))
    rows += _of_features(result)
    if result.agreement is not None:
        rows.append(("agreement with the teacher", f"{100 * result.agreement:.2f} %"))
    files = result.document.get("files") or {}  # none in one that came with the checkout
    rows += [
        ("parameters", f"{result.params:,}{_own_parts(result)}"),
        ("multiply-accumulates an image", f"{result.macs / 1e6:.1f} M" if result.macs else "–"),
        ("training", _training(result)),
    ]
    where = "held-out part" if result.evaluated_on == "holdout" else "test set"
    final_table(rows, title=f"{result.dataset}, {where}, seed {result.seed}")
    print("files:", files.get("folder") or spec.folder, flush=True)  # not in the table, which would break it


def _of_features(result: Result) -> list[tuple[str, str]]:
    """What its features are worth, and its teachers'."""
    found = []
    if result.knn:
        taught = [f"{value:.2f} %" for value in result.document.get("teacher_knn") or ()]
        found += [(f"{result.teacher}, nearest neighbours", ", ".join(taught))] if taught else []
        found.append((f"student {result.student}, nearest neighbours", _last_and_best(result.knn)))
    if result.linear_probe is not None:
        found.append(("linear probe", f"{result.linear_probe:.2f} %"))
    return found


def student_alone(spec: RunSpec) -> Result | None:
    """Return the finished `none` run of the same student, data, schedule, precision and seed, if there is one."""
    folder = RunFolder(spec.alone) if spec.alone else None
    return folder.result if folder and folder.done else None


def _training(result: Result) -> str:
    """How fast it was, and how much of it went by in waiting, where that is something."""
    rate = f"{result.images_per_second:,.0f}" if result.images_per_second else "–"  # of a run too short to tell
    speed = f"{rate} images/s, {result.precision}, {clock(result.seconds) if result.seconds else '–'}"
    speed += f", in turn with {result.packed - 1} other runs" if result.packed else ""
    waiting = result.waiting or 0
    return f"{speed}, {waiting:.0%} waiting for data" if waiting >= NEGLIGIBLE else speed


def _own_parts(result: Result) -> str:
    """What the method adds in training, where that is something."""
    share = result.method_share_of_step
    cost = "" if share is None else f", {100 * share:.0f} % of the step"
    return f" (method: {result.method_params:,} more{cost})" if result.method_params or (share or 0) > 0.05 else ""


def _last_and_best(accuracy: Accuracy) -> str:
    if accuracy.last is None:
        return "not measured"
    if accuracy.best_epoch is None:
        return f"{accuracy.last:.2f} %"
    return f"{accuracy.last:.2f} % last, {accuracy.best:.2f} % best (epoch {accuracy.best_epoch})"
