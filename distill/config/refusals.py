"""What a method cannot honour of a schedule, in one sentence, with or without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import load_node, plain

ZERO = ("mixup", "cutmix", "label_smoothing")  # keys that 0 switches off

ALIKE = {"mixup": "cutmix", "label_smoothing": "loss"}  # what cannot do the one cannot do the other
OFF = {"accumulate": (1,), "repeats": (1,), "loss": ("ce",)}  # what asks for nothing, beside null and 0


def refuse_keys(name: str, refuses: Mapping[str, str], schedule: Mapping[str, Any]) -> None:
    """Raise ValueError where a schedule sets a key that the method `name` refuses (key: why); drawn: where a rule draws
    batches with replacement.
    """
    further = {new: refuses[key] for key, new in ALIKE.items() if key in refuses}
    for key, why in {**refuses, **further}.items():
        if key == "last_batch" and schedule.get(key) in ("keep", "merge"):
            raise ValueError(f"method={name} takes whole batches alone, {why}: give schedule.last_batch=drop, or null")
        if key == "drawn" and schedule.get(key):
            what = f"method={name} cannot honour schedule={schedule['name']}, which draws some images several times for"
            raise ValueError(f"{what} a batch larger than the data: {why}; lower schedule.batch_size")
        if key not in ("last_batch", "drawn") and schedule.get(key) not in OFF.get(key, ()) and schedule.get(key):
            by_rule = " (schedule=bit sets it)" if key == "mixup" and schedule.get("rule") else ""
            remedy = f"set schedule.{key}=0." if key in ZERO else f"leave schedule.{key} null"
            raise ValueError(f"method={name} cannot honour schedule.{key}={schedule[key]}{by_rule}: {why}; {remedy}")


def check_refusals(cfg: DictConfig) -> None:
    """Raise ValueError where the schedule asks for what about.refuses of the method's YAML says it cannot honour, or
    for another cross-entropy where the command took it away; and where all weights of about.some are 0.
    """
    name, schedule = str(cfg.method.name), plain(cfg, "schedule")
    if OmegaConf.select(cfg, "method.about.refuses", default=None):
        refuse_keys(name, plain(cfg, "method.about.refuses"), schedule)
    terms = OmegaConf.select(cfg, "method.about.some", default=None) or ()
    if terms and not any(plain(cfg, "method").get(key) for key in terms):
        weights = " and ".join(f"method.{key}" for key in terms)
        raise ValueError(f"{weights} are 0, which leaves method={name} nothing to train by: give one of them")
    file = load_node("method", name)
    usual: Any = {} if file is None else OmegaConf.to_container(file, resolve=False)  # may hang on the run's data set
    own = OmegaConf.select(cfg, "method.about.taps", default=None) or ()  # of labels that its other losses read
    if plain(cfg, "method").get("ce") == 0 and (usual.get("ce") or "labels" not in own):
        refuse_keys(name, {"label_smoothing": "method.ce=0 takes no cross-entropy"}, schedule)
