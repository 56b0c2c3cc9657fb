"""What a method's YAML says of the method, `about`: of one's own, that each word is one that somebody reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.config.groups import did_you_mean

TAPS = ("logits", "features", "embedding", "preacts", "stem", "tokens", "classifier", "batchnorm", "index", "labels")
ABOUT_KEYS = ("paper", "kind", "taps", "phases", "teachers", "aliases", "protocol", "unscheduled", "only", "values",
              "limits", "some", "refuses", "departs", "classes", "chain", "tried_on")  # fmt: skip


def check_about(node: Mapping[str, Any]) -> None:
    """Raise ValueError where the plain node of a method does not say what it reads, or says it in unknown words."""
    where, about = f"method={node['name']}", node.get("about")
    if not isinstance(about, Mapping) or not isinstance(about.get("taps"), list):
        raise ValueError(f"{where}: its YAML does not say what it reads: about: {{taps: [logits], teachers: 1, ...}}")
    for words, known, what in ((about, ABOUT_KEYS, "about"), (about["taps"], TAPS, "about.taps")):
        if unknown := [word for word in words if word not in known]:
            raise ValueError(f"{where}: nothing reads '{unknown[0]}' in {what} of its YAML: "
                             f"{did_you_mean(str(unknown[0]), known)}")  # fmt: skip
    count = about.get("teachers", 1)
    if not (count == "n" or isinstance(count, int) and not isinstance(count, bool) and count >= 0):
        raise ValueError(f"{where}: about.teachers of its YAML is {count}: 0, 1, 2, ..., or n for any number above one")
