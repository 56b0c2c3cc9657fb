"""Knowledge distillation experiments, composed with Hydra: `python -m distill method=crd student=resnet20`.

In Python the same is `distill.run("method=crd student=resnet20")`, and `distill.load(FOLDER)` opens what it left. Both
are imported when they are asked for, so that importing distill costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.api import Outcome, load, run

__version__ = "0.2.0"
__all__ = ["Outcome", "__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    if name in ("Outcome", "load"):
        return getattr(import_module("distill.api"), name)
    if name == "run":
        return import_module("distill.run")  # which can be called
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
