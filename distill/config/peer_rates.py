"""How fast a cohort's nets learn: each at the rate of its own file in conf/student, as the student does."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from distill.config.groups import load_node, options, plain


def peer_rates(models: Sequence[str], *, _root_: DictConfig) -> list[float] | None:
    """Of each model the share of the student's learning rate that conf/student gives it; None where there are none.

    A model that no file of conf/student names learns at the schedule's rate.
    """
    if not models:
        return None
    files = [load_node("student", name) for name in options("student")]
    nodes = [node for node in files if node is not None and "model" in node]
    known = {str(node.model): float(node.get("lr_scale") or 1.0) for node in nodes}
    own = float(plain(_root_, "student").get("lr_scale") or 1.0)
    return [known.get(str(model), 1.0) / own for model in models]
