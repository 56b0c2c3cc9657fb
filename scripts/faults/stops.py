"""Stop signals at random moments: obeyed in seconds with the documented code, and the run goes on to the same bits."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from distill import errors
from scripts.faults.forked import Outcome, forked
from scripts.faults.kills import Kills, start, words
from scripts.faults.ledger import Try
from scripts.faults.shapes import LAUNCHED, SHAPES, difference, fingerprint, litter

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
OBEYED = 30.0  # seconds within which a signal is obeyed, on a machine that others load
ROUNDS = 3


class Stops:
    """Every shape of run in turn."""

    name = "signals"

    def __init__(self, folder: Path) -> None:
        self.kills = Kills(folder)
        self.shapes = [*SHAPES, *(name for name in LAUNCHED if name != "local")]

    def attempt(self, number: int, place: Path) -> Try:
        """Stop a run up to ROUNDS times, let it end, and compare it with one that was left alone."""
        chance = random.Random(f"signals {number}")
        shape = self.shapes[number % len(self.shapes)]
        whole = self.kills.left_alone(shape, place / "whole")
        output, stopped = place / "stopped", 0
        for _ in range(ROUNDS):
            sent = chance.choice(SIGNALS)
            after = chance.uniform(0.02, 1.05 * whole["seconds"])
            ended = forked(lambda: stoppable(shape, output), place, signals=((after, sent),), longest=after + OBEYED)  # noqa: B023
            if wrong := _wrong(ended, sent):
                return self._try(number, shape, output, wrong, stopped)
            stopped += ended.code != errors.DONE
        last = forked(lambda: stoppable(shape, output), place)
        wrong = f"then exit code {last.code}: {last.said[-300:]}" if last.code else ""
        wrong = wrong or difference(whole["fingerprint"], fingerprint(output)) or ", ".join(litter(output))
        return self._try(number, shape, output, wrong, stopped)

    def _try(self, number: int, shape: str, output: Path, wrong: str, stopped: int) -> Try:
        counts = {"signals that stopped a run": stopped, "bit-equal": int(not wrong)}
        return Try(self.name, number, shape, not wrong, wrong or "equal", words(shape, output), counts)


def stoppable(shape: str, output: Path) -> int:
    """Run a shape as the program does, which listens to signals from its first line on."""
    from distill.signals import StopSignals, stopped

    try:
        with StopSignals(at_once=True) as stop:
            try:
                return start(shape, output)
            except Exception:  # Hydra makes an error of its own of being cut off, as the command line knows
                if stop.received is None:
                    raise
                raise stopped(stop.received) from None
    except errors.Stopped as leaving:
        return leaving.code


def _wrong(ended: Outcome, sent: int) -> str:
    wanted = errors.INTERRUPTED if sent == signal.SIGINT else errors.STOPPED
    name = signal.Signals(sent).name
    if ended.hung:
        return f"{name} was not obeyed in {OBEYED:.0f} s"
    if ended.code == -sent and ended.seconds < 1.0:
        return ""  # it came before the first line
    return "" if ended.code in (wanted, errors.DONE) else f"{name}: exit code {ended.code}: {ended.said[-300:]}"

