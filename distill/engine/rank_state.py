"""What a checkpoint, which the first of several processes writes, keeps of the others: random numbers, and losses read.

The rest of a run's state is equal on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

import distill.parallel as parallel
from distill.engine.meter import Meter
from distill.runtime import rng_state, set_rng_state
from distill.signals import interruptible


def interruptible_alone() -> AbstractContextManager[None]:
    """A block that a signal may cut off, where this process need not agree with others on it."""
    return interruptible() if parallel.world() == 1 else nullcontext()


def others_state(meter: Meter) -> list[dict[str, Any]]:
    """The state of each process after the first, for the first; all processes ask at the same step."""
    if parallel.world() == 1:
        return []
    return parallel.gathered_on_first({"rng": rng_state(), "meter": meter.state_dict()})[1:]


def restore_own(state: Mapping[str, Any], meter: Meter, total: int) -> None:
    """Set this process's random numbers and meter from a checkpoint at the global step `total`.

    Where as many processes saved it as work now they go on as if nothing had been. Where others did, those after the
    first draw anew and have read nothing of the epoch.
    """
    saved: list[Mapping[str, Any]] = [{"rng": state["rng"], "meter": state["meter"]}, *state.get("others", ())]
    if parallel.rank() == 0 or len(saved) == parallel.world():
        own = saved[parallel.rank()]
        set_rng_state(own["rng"])
        meter.load_state_dict(own["meter"])
        return
    torch.manual_seed(1000 * total + parallel.rank())
    nothing = {name: 0.0 for name in state["meter"]["sums"]}
    meter.load_state_dict({"sums": nothing, "images": 0.0, "judged": 0.0, "correct": 0.0})
