"""What all launchers of this program have in common: the configurations of a sweep's jobs are composed once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from distill.sweep.jobs import Sweep


class ComposingLauncher(Launcher):
    """A launcher whose `composer` takes the place of Hydra's configuration loader."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from distill.sweep.compose import Composer

        self.config = config
        self.composer = hydra_context.config_loader = Composer(hydra_context.config_loader)  # type: ignore[assignment]

    def tell_time(self, sweep: Sweep, *, timed: bool) -> None:
        """Print how long the jobs of a sweep of minutes take.

        timed: where no run has told, steps may be timed, since the jobs run on this machine and are kept from no GPU.
        """
        from distill.sweep.forecast import MINUTES, forecast

        compose = partial(self.composer.load_sweep_config, self.config)
        if line := forecast(sweep, compose, timed=timed, worth=MINUTES):
            print(line, flush=True)
