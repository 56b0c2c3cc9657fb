"""Take turns at the campaigns until the minutes are over; the same command again goes on and adds up.

python -m scripts.faults --minutes 30 --out outputs/faults [--only kills,keys]
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "COLUMNS": "200"}
os.environ.pop("HYDRA_FULL_ERROR", None)


def campaigns(folder: Path) -> dict[str, Any]:
    """All campaigns by name."""
    from scripts.faults.damage import Damage
    from scripts.faults.disks import Disks
    from scripts.faults.keys import Commands, Keys
    from scripts.faults.kills import Kills
    from scripts.faults.servers import Servers
    from scripts.faults.several import Several
    from scripts.faults.slurm import Slurm
    from scripts.faults.stops import Stops
    from scripts.faults.sweeps import Sweeps
    from scripts.faults.verbs import Folders

    kinds: tuple[Any, ...] = (Kills, Stops, Keys, Commands, Damage, Disks, Servers, Sweeps, Slurm, Several, Folders)
    return {kind.name: kind(folder) for kind in kinds}


def main() -> int:
    """Try until time is over, write the summary, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("outputs/faults"), help="ledger, summary, and what failed")
    parser.add_argument("--only", default="", help="campaigns, separated by commas")
    parser.add_argument("--again", action="store_true", help="first try once more what failed, and count that instead")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="folders of other calls, to be added")
    parser.add_argument("--most", type=int, default=None, help="tries of each campaign in this call")
    options = parser.parse_args()
    from scripts.faults.forked import preload
    from scripts.faults.ledger import Ledger

    preload()
    logging.disable(logging.INFO)
    ledger = Ledger(options.out.absolute())
    for other in options.also:
        ledger.take(other)
    known = campaigns(options.out.absolute())
    asked = [known[name] for name in options.only.split(",") if name] or list(known.values())
    if options.again:
        for name, number in ledger.forget_failures({one.name for one in asked}):
            _one(ledger, known[name], number, ledger.folder / "places" / f"{name}-{number}")
    _take_turns(ledger, asked, time.monotonic() + 60 * options.minutes, options.most)
    path = ledger.write(shlex.join(["python", "-m", "scripts.faults", *sys.argv[1:]]))
    print(path.read_text())
    return int(any(not one.survived for one in ledger.tries))


def _take_turns(ledger: Any, asked: list[Any], end: float, most: int | None) -> None:
    made = dict.fromkeys((one.name for one in asked), 0)
    while time.monotonic() < end and asked:
        for campaign in list(asked):
            number = ledger.next(campaign.name)
            if made[campaign.name] == most or number == getattr(campaign, "last", None):
                asked.remove(campaign)
                continue
            made[campaign.name] += 1
            place = ledger.folder / "places" / f"{campaign.name}-{number}"
            _one(ledger, campaign, number, place)


def _one(ledger: Any, campaign: Any, number: int, place: Path) -> None:
    from scripts.faults.ledger import Try

    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        found = campaign.attempt(number, place)
    except Exception:
        traceback.print_exc()
        found = Try(campaign.name, number, "the campaign itself", False, traceback.format_exc()[-500:])
    for one in found if isinstance(found, list) else [found]:
        ledger.add(one)
        if not one.survived:
            print(f"{one.campaign} {one.number}: {one.what}: {one.why}", flush=True)
    if all(one.survived for one in (found if isinstance(found, list) else [found])):
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
