"""What the tries came to: a line each in tries.jsonl, so that calls add up, and a summary of all of them."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

TRIES, SUMMARY = "tries.jsonl", "summary"
PACKAGES = ("torch", "timm", "hydra-core", "omegaconf", "numpy", "safetensors")


@dataclass(frozen=True)
class Try:
    """One try of a campaign. survived: it ended as it should; why: what was wrong, or how it ended.

    counts: what it adds up beside itself, such as kills.
    """

    campaign: str
    number: int
    what: str
    survived: bool
    why: str = ""
    command: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """The tries of all calls on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / TRIES
        lines = path.read_text().splitlines() if path.exists() else []
        self.tries = [Try(**json.loads(line)) for line in lines]
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (open as long as the campaign)

    def add(self, one: Try) -> None:
        """Note a try."""
        self.tries.append(one)
        self._file.write(json.dumps(asdict(one)) + "\n")

    def forget_failures(self, campaigns: set[str]) -> list[tuple[str, int]]:
        """Leave out the tries that failed, and all of the same number; returns campaign and number of each."""
        failed = {(one.campaign, one.number) for one in self.tries if not one.survived and one.campaign in campaigns}
        self.tries = [one for one in self.tries if (one.campaign, one.number) not in failed]
        self._file.truncate(0)
        for one in self.tries:
            self._file.write(json.dumps(asdict(one)) + "\n")
        return sorted(failed)

    def take(self, other: Path) -> None:
        """Add the tries of another folder, with numbers of their own."""
        theirs = Ledger(other).tries
        first = {one.campaign: self.next(one.campaign) for one in theirs}
        for one in theirs:
            self.add(replace(one, number=one.number + first[one.campaign]))

    def next(self, campaign: str) -> int:
        """The number of the first try that a campaign has not made yet."""
        return 1 + max((one.number for one in self.tries if one.campaign == campaign), default=-1)

    def summary(self) -> dict[str, Any]:
        """Tries, survivals and counts of each campaign, and every failure with its command."""
        found: dict[str, Any] = {}
        for name in sorted({one.campaign for one in self.tries}):
            own = [one for one in self.tries if one.campaign == name]
            counts: Counter[str] = Counter()
            for one in own:
                counts.update(one.counts)
            failures = [{"what": one.what, "why": one.why, "command": one.command} for one in own if not one.survived]
            survived = len(own) - len(failures)
            found[name] = {"tries": len(own), "survived": survived, **counts, "failures": failures}
        return {"hardware": _hardware(), "versions": _versions(), "campaigns": found}

    def write(self, command: str) -> Path:
        """Write summary.json and summary.md; returns the latter."""
        found = self.summary() | {"command": command}
        (self.folder / f"{SUMMARY}.json").write_text(json.dumps(found, indent=1) + "\n")
        path = self.folder / f"{SUMMARY}.md"
        path.write_text("\n".join(_markdown(found)) + "\n")
        return path


def _markdown(found: dict[str, Any]) -> list[str]:
    lines = ["# Faults", "", f"`{found['command']}` on {found['hardware']}; "
             + ", ".join(f"{name} {number}" for name, number in found["versions"].items()), "",
             "| campaign | tries | survived | of these |", "| --- | ---: | ---: | --- |"]  # fmt: skip
    for name, one in found["campaigns"].items():
        more = ", ".join(f"{count} {what}" for what, count in one.items() if what not in _COLUMNS)
        lines.append(f"| {name} | {one['tries']} | {one['survived']} | {more} |")
    failures = [(name, failure) for name, one in found["campaigns"].items() for failure in one["failures"]]
    lines += ["", f"{len(failures)} failures."]
    return lines + [f"- {name}: {one['what']}: {one['why']} (`{one['command']}`)" for name, one in failures]


_COLUMNS = ("tries", "survived", "failures")


def _hardware() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, one thread, {platform.system()}"


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}
