"""What a schedule plans for after the last epoch: a run whose epochs alone were cut keeps its first rate, or never has
its full one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import load_node, plain

RISES = {"warmup_epochs": "the rate", "momentum_epochs": "the momentum"}


def late(schedule: Mapping[str, Any]) -> list[float]:
    """The milestones at which the rate would fall after the end; none where it does not fall by milestones."""
    if schedule.get("rule") or schedule.get("decay", "step") != "step":
        return []
    return [each for each in schedule.get("milestones") or () if each >= schedule["epochs"]]


def note_of_milestones(cfg: DictConfig) -> str | None:
    """One line on milestones that training does not reach, with those of the same shares of it; None where it does."""
    schedule = plain(cfg, "schedule")
    beyond = late(schedule)
    if not beyond:
        return None
    reached = [each for each in schedule["milestones"] if each not in beyond]
    falls = f"the rate falls after epoch {_words(reached)} alone" if reached else "the rate never falls"
    return (
        f"{falls}: training ends after {_count(schedule['epochs'])}, and schedule.milestones has {_words(beyond)}"
        f"{_shares(str(schedule.get('name')), schedule['epochs'])}"
    )


def note_of_rises(cfg: DictConfig) -> str | None:
    """One line on a rate or a momentum that still rises when training ends; None where both are there before."""
    schedule = plain(cfg, "schedule")
    epochs = schedule["epochs"]
    long = {key: of for key, of in RISES.items() if schedule.get(key) and schedule[key] >= epochs}
    if schedule.get("rule") or not long:
        return None
    given = " and ".join(f"schedule.{key}={schedule[key]:g}" for key in long)
    what = " and ".join(long.values())
    return f"{what} still rise{'s' * (len(long) < 2)} when training ends after {_count(epochs)}: {given}, give less"


def _shares(name: str, epochs: float) -> str:
    """The milestones of a schedule's file, in the same shares of so many epochs."""
    node = load_node("schedule", name)
    own = None if node is None else OmegaConf.select(node, "schedule", default=node)
    published = own.get("epochs") if own is not None else None
    if own is None or not isinstance(published, int) or not own.get("milestones"):
        return ""
    shares = dict.fromkeys(round(each * epochs / published) for each in own.milestones if each < published)
    inside = [str(each) for each in shares if 0 < each < epochs]
    return f" (in the shares of schedule={name}: schedule.milestones=[{','.join(inside)}])" if inside else ""


def _words(values: Sequence[float]) -> str:
    *first, last = (f"{each:g}" for each in values)
    return f"{', '.join(first)} and {last}" if first else last


def _count(epochs: int) -> str:
    return f"{epochs} epoch{'s' * (epochs != 1)}"
