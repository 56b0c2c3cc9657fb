"""Sweeps: what the launchers in distill/launch share. Nothing here imports torch before a job starts."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGINS = Path(__file__).resolve().parent.parent / "launch"


def add_launchers() -> None:
    """Let Hydra find our launchers: it takes plugins only from the namespace package hydra_plugins."""
    if str(PLUGINS) not in sys.path:
        sys.path.append(str(PLUGINS))
