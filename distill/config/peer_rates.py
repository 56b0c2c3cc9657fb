"""How fast a cohort's nets learn: each at the rate that its own file and the schedule give it, as the student does."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import load_node, options, plain
from distill.config.schedule_spec import lr_share


def peer_rates(models: Sequence[str], *, _root_: DictConfig) -> list[float] | None:
    """Of each model the share of the student's learning rate that its file and the schedule give it; None for none.

    A model that no file of conf/student names learns at the schedule's rate.
    """
    if not models:
        return None
    files = [load_node("student", name) for name in options("student")]
    nodes = [node for node in files if node is not None and "model" in node]
    known = {str(node.model): float(node.get("lr_scale") or 1.0) for node in nodes}
    scales = OmegaConf.select(_root_, "schedule.lr_scales", default=None)
    student = plain(_root_, "student")
    own = float(student.get("lr_scale") or 1.0) * lr_share(scales, student.get("model"))
    return [known.get(str(model), 1.0) * lr_share(scales, model) / own for model in models]
