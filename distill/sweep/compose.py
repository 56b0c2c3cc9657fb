"""From a job's overrides to its configuration, its folder and the command line that runs it alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from distill.sweep.lean import LeanLoader, composes

# each job of a command: its overrides, and what makes its configuration, which few ask for
Plan = list[tuple[list[str], Callable[[], DictConfig]]]
A_JOB = "hydra.mode=RUN"  # by which a command is known as one job of a sweep
LAUNCHING = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")


class Composer:
    """Takes the place of Hydra's configuration loader, and composes what differs in the seed alone only once.

    Hydra composes every job of a sweep before it calls the launcher, some 40 ms each, and we need the same
    configurations again to find what is done.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._lean = LeanLoader(loader) if composes(loader) else None
        self._known: dict[tuple[str, ...], Any] = {}
        self._used: Any = None  # of HydraConfig

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Return a job's configuration without its hydra node. Raises what Hydra's own loader raises."""
        seeds, rest = _seeds_and_rest(sweep_overrides)
        if rest in self._known:
            cfg = OmegaConf.create(self._known[rest])
        else:
            cfg = self._composed(master_config, sweep_overrides)
            self._known[rest] = OmegaConf.to_container(cfg, resolve=False)
        OmegaConf.set_struct(cfg, None)  # type: ignore[arg-type]
        for text in seeds:
            cfg.seed = int(text[5:])
        self._use(master_config)
        return cfg

    def _use(self, master: DictConfig) -> None:
        """Have interpolations of ${hydra:...} read a sweep's configuration; Hydra copies it, which takes long."""
        if HydraConfig.instance().cfg is None or HydraConfig.instance().cfg is not self._used:
            HydraConfig.instance().set_config(master)
            self._used = HydraConfig.instance().cfg

    def _composed(self, master: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """A job's configuration without its hydra node."""
        if self._lean is not None:
            with contextlib.suppress(Exception):  # Hydra says it in words of its own
                name, hydras = str(master.hydra.job.config_name), master.hydra.overrides.hydra
                return self._lean.compose(name, [*hydras, *overrides])
        cfg = self._loader.load_sweep_config(master, list(overrides))
        return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _seeds_and_rest(overrides: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    seeds = [text for text in overrides if text.startswith("seed=") and text[5:].isdecimal()]
    return seeds, tuple(text for text in overrides if text not in seeds)


def expand_jobs(given: Sequence[Override], compose: Callable[[list[str]], DictConfig]) -> Plan:
    """All jobs of a command line that has been checked, less those that an experiment file leaves out.

    given: its overrides, an experiment file's sweep among them; compose: inside an initialised Hydra.
    """
    master = compose([item.input_line or "" for item in given if not item.is_sweep_override()])
    own = [item for item in given if not item.key_or_group.startswith("hydra")]
    jobs = BasicSweeper.split_arguments(own, None)[0]
    composer = Composer(GlobalHydra.instance().config_loader())
    jobs = [job for job in jobs if not left_out(master, job)]
    return [(job, partial(composer.load_sweep_config, master, job)) for job in jobs]


def left_out(cfg: DictConfig, overrides: Sequence[str]) -> bool:
    """Whether an experiment file rules a job out: all words of a line of its `leave_out` are among the overrides."""
    return any(set(str(line).split()) <= set(overrides) for line in cfg.get("leave_out") or ())


def job_arguments(master: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The arguments that run one job of a sweep alone: no launcher, no sweeper."""
    hydra = master.hydra
    kept = [text for text in hydra.overrides.hydra if not text.lstrip("+~").startswith(LAUNCHING)]
    argv = [*overrides, *kept, A_JOB]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            argv += ["--config-dir", str(source.path)]
    if hydra.job.config_name not in (None, "config"):
        argv += ["--config-name", str(hydra.job.config_name)]
    return argv
