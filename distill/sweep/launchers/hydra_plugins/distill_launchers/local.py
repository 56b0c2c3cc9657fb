"""hydra/launcher=local: jobs on this machine, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn

from distill.sweep.launcher import ComposingLauncher


class LocalLauncher(ComposingLauncher):
    """`slots` jobs at a time (auto: one a GPU, or one), crashes tried again `retries` times.

    gpus: auto hands each slot one of those that can be seen, a list says which, null leaves the choice alone.
    """

    def __init__(
        self, slots: int | str = "auto", retries: int = 1, gpus: Sequence[Any] | str | None = "auto"
    ) -> None:
        self.slots, self.retries, self.gpus = slots, int(retries), gpus

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from distill.sweep.jobs import Sweep
        from distill.sweep.slots import Slots, chosen, threads_per_slot, visible_gpus

        sweep = Sweep(self.config, self.composer, job_overrides, self.retries)
        if sweep.jobs:
            seen = visible_gpus()
            gpus = seen if self.gpus == "auto" else chosen(self.gpus or (), seen)
            slots = max(len(gpus), 1) if self.slots == "auto" else int(self.slots)
            sweep.announce(f", {slots} at a time{f' on {len(gpus)} GPUs' if gpus else ''}")
            places = Slots(sweep, slots, gpus, threads_per_slot(slots))
            self.tell_time(sweep, timed=not seen)
            places.run()
        else:
            sweep.announce("")
        return sweep.returns()
