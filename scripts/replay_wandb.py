"""Send finished runs to W&B from their own files: python scripts/replay_wandb.py outputs/cifar100

Each folder is searched for finished runs (metrics.jsonl, tracking.json, result.json). A run keeps the id that
it had, and replaces what W&B has under that id. Exit code 1 if one of them could not be sent.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.files import read_json
from distill.record.replay import replay
from distill.record.wandb_logger import WandbLogger
from distill.run_folder import RunFolder, find_runs


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    runs = sorted({run for folder in args.folders for run in _finished(folder)})
    if not runs:
        print(f"no finished run (one with DONE and a result.json) below {', '.join(map(str, args.folders))}")
        return 1
    tracking = {"mode": args.mode, "project": args.project, "entity": args.entity, "artifact": args.artifact}
    sent = [_send(run, tracking) for run in runs]
    print(f"{sum(sent)} of {len(runs)} runs {'sent' if args.mode == 'online' else 'written'}")
    return 0 if all(sent) else 1


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folders", nargs="+", type=Path, help="runs, or folders above runs")
    parser.add_argument("--project", default="distill")
    parser.add_argument("--entity")
    parser.add_argument("--artifact", action="store_true", help="send the students' weights too")
    parser.add_argument("--mode", choices=("online", "offline"), default="online")
    return parser


def _finished(folder: Path) -> Iterator[RunFolder]:
    return (run for run in find_runs(folder) if run.done and run.metrics.exists() and run.tracking.exists())


def _send(run: RunFolder, tracking: dict[str, str | bool | None]) -> bool:
    known = read_json(run.tracking, {})
    mirror = WandbLogger(run.path, tracking, known["config"], known["identity"])
    if mirror.run is None or mirror.online != (tracking["mode"] == "online"):
        begun = None if mirror.run is None else Path(mirror.run.dir).parent
        mirror.finish(1, {})
        if begun is not None and not mirror.online:  # what W&B began in place of the run on its server, with no row
            shutil.rmtree(begun, ignore_errors=True)
        print(f"{run}: not sent")
        return False
    whole = replay(mirror, run)
    print(f"{run}: {known['identity']['name'] if whole else 'not sent'}")
    return whole


if __name__ == "__main__":
    sys.exit(main())
