"""A configuration as flat raw values, for CSV."""

from __future__ import annotations

from typing import Any

from distill.report.gains import standard_error
from distill.report.ranking import Entry


def record(entry: Entry) -> dict[str, Any]:
    """What an entry is, its accuracies, its gain over the student alone, and its cost."""
    row, run, best = entry.row, entry.row.one, entry.row.best
    return {
        "dataset": run.dataset,
        "measured_on": run.part,
        "protocol": run.protocol,
        "ce": run.ce,
        "kd": run.kd,
        "weight": run.weight,
        "teacher": run.teacher_net,
        "student": run.student_net,
        "method": run.method,
        "name": entry.name,
        "hash": run.hash,
        "n": row.n,
        "seeds": " ".join(one.seed for one in row.runs),
        "last_mean": row.last.mean,
        "last_std": row.last.std,
        "last_error": standard_error(row.last),
        "best_mean": best.mean if best else None,
        "best_std": best.std if best else None,
        "best_epoch": row.best_epoch,
        "teacher_accuracy": row.teacher.mean if row.teacher else None,
        "gap": row.gap,
        "closed": row.closed,
        "student_alone": row.alone.mean if row.alone else None,
        **_gain(entry),
        "top5": row.mean("top5"),
        "agreement": row.mean("agreement"),
        "params": row.mean("params"),
        "macs": row.mean("macs"),
        "method_params": row.mean("method_params"),
        "images_per_second": row.mean("images_per_second"),
        "seconds": row.mean("seconds"),
        "epochs": run.epochs,
    }


def _gain(entry: Entry) -> dict[str, Any]:
    gain = entry.gain
    return {
        "gain": gain.difference if gain else None,
        "gain_error": gain.error if gain else None,
        "gain_half_interval": gain.half if gain else None,
        "gain_p": gain.p if gain else None,
        "gain_p_holm": gain.corrected if gain else None,
        "gain_test": gain.test if gain else None,
        "gain_verdict": gain.verdict if gain else None,
    }
