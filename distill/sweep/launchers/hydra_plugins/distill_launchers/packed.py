"""hydra/launcher=packed: jobs that share data and teacher, side by side in this process."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn

from distill.signals import leave
from distill.sweep.launcher import ComposingLauncher


class PackedLauncher(ComposingLauncher):
    """`per_device` runs at a time (auto: as many as fit in memory), stepping in turn on the same batches."""

    def __init__(self, per_device: int | str = "auto") -> None:
        self.most = None if per_device == "auto" else int(per_device)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from distill.sweep.jobs import Sweep

        sweep = Sweep(self.config, self.composer, job_overrides, retries=0)
        sweep.announce(", packed")
        if not sweep.jobs:
            return sweep.returns()
        from distill.sweep.board import Board
        from distill.sweep.checked import resolved
        from distill.sweep.packed import failed, run_all
        from distill.sweep.slots import visible_gpus

        self.tell_time(sweep, timed=not visible_gpus())
        runs = []
        for job in sweep.jobs:
            try:
                runs.append((job, resolved(self.composer.load_sweep_config(self.config, job.overrides))))
            except ValueError as error:
                job.start()
                failed(sweep, job, error)
        with Board(sweep):
            received = next((one for one in run_all(sweep, runs, self.most) if one is not None), None)
        if received is not None:
            leave(received)
        return sweep.returns()
