"""Sweeps: what the launchers in launchers/ share. Nothing here imports torch before a job starts."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PLUGINS = Path(__file__).resolve().parent / "launchers"


def add_launchers() -> None:
    """Let Hydra find our launchers: it takes plugins only from the namespace package hydra_plugins."""
    if str(PLUGINS) not in sys.path:
        sys.path.append(str(PLUGINS))


def check_launcher(name: str) -> None:
    """Raise ValueError when hydra/launcher=<name> needs what is not installed here."""
    module, extra = {"slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"), "ray": ("ray", "ray")}.get(
        name, ("sys", "")
    )
    if find_spec(module) is None:
        raise ValueError(f"hydra/launcher={name} is not installed: pip install 'distill[{extra}]'")
    if name == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise ValueError("hydra/launcher=slurm finds no sbatch and srun: use it on a machine of the cluster")
