"""What all launchers of this program have in common: the configurations of a sweep's jobs are composed once."""

from __future__ import annotations

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ComposingLauncher(Launcher):
    """A launcher whose `composer` takes the place of Hydra's configuration loader."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from distill.sweep.compose import Composer

        self.config = config
        self.composer = hydra_context.config_loader = Composer(hydra_context.config_loader)  # type: ignore[assignment]
