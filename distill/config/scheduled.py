"""What a schedule makes of nets that it names by their models, as it counts for a run's hash: their rates (lr_scales)
and how they begin (inits). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distill.config.schedule_spec import lr_share

INIT_RULES = ("torch", "timm", "mmcls", "small_head", "fan_out")  # of inits, which models.inits carries out
_Node = Mapping[str, Any]


def scheduled(net: _Node, schedule: _Node) -> dict[str, Any]:
    """A net's node with what the schedule makes of its rate, and of its first weights where they are drawn."""
    share, rule = lr_share(schedule.get("lr_scales"), net.get("model")), _rule(net.get("model"), schedule)
    drawn = not net.get("pretrained") and net.get("weights") in (None, "auto") and net.get("start") in (None, "none")
    found = {**net, "init": rule} if rule is not None and drawn else dict(net)
    return found if share == 1 else {**found, "lr_scale": share * float(net.get("lr_scale") or 1.0)}


def inits_of(models: Iterable[Any], schedule: _Node) -> list[str | None] | None:
    """How nets of some models begin by a schedule; None where it names none of them."""
    found = [_rule(model, schedule) for model in models if model]
    return found if any(found) else None


def _rule(model: Any, schedule: _Node) -> str | None:
    return (schedule.get("inits") or {}).get(str(model))
